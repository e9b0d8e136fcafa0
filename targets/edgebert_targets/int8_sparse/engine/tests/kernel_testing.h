// What the kernel tests share: seeded numbers, aligned buffers, and checks that count failures.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"

namespace edgebert {

// splitmix64: the same numbers on every machine.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    // In [low, high].
    uint32_t integer(uint32_t low, uint32_t high) {
        return low + static_cast<uint32_t>(next() % (uint64_t{high} - low + 1));
    }
    // In [0, 1).
    float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
    float uniform(float low, float high) { return low + (high - low) * uniform(); }
    bool chance(float probability) { return uniform() < probability; }
    // Bell-shaped, standard deviation 1.
    float normal() {
        float sum = 0.0f;
        for (int i = 0; i < 12; i++) sum += uniform();
        return sum - 6.0f;
    }

  private:
    uint64_t state_;
};

// A 64-byte aligned array of exactly `size` elements, so that a sanitizer sees the first byte past it.
template <class T>
class Aligned {
  public:
    explicit Aligned(size_t size, T fill = T{}) : size_(size) {
        void *memory = nullptr;
        if (posix_memalign(&memory, 64, size == 0 ? 64 : size * sizeof(T)) != 0) std::abort();
        data_ = static_cast<T *>(memory);
        for (size_t i = 0; i < size; i++) data_[i] = fill;
    }
    Aligned(const Aligned &other) : Aligned(other.size_) {
        if (size_ != 0) std::memcpy(data_, other.data_, size_ * sizeof(T));
    }
    Aligned &operator=(const Aligned &) = delete;
    ~Aligned() { std::free(data_); }

    T *data() { return data_; }
    const T *data() const { return data_; }
    size_t size() const { return size_; }
    T &operator[](size_t i) { return data_[i]; }
    const T &operator[](size_t i) const { return data_[i]; }
    bool same_bits(const Aligned &other) const {
        return size_ == other.size_ &&
               (size_ == 0 || std::memcmp(data_, other.data_, size_ * sizeof(T)) == 0);
    }

  private:
    T *data_;
    size_t size_;
};

using Floats = Aligned<float>;

// Failures of the test that is running.
inline int &failures() {
    static int count = 0;
    return count;
}

// Counts a failure, and prints it while there are few.
__attribute__((format(printf, 2, 3))) inline void expect(bool holds, const char *format, ...) {
    if (holds || ++failures() > 5) return;
    va_list arguments;
    va_start(arguments, format);
    std::fputs("  FAIL ", stdout);
    std::vprintf(format, arguments);
    std::fputc('\n', stdout);
    va_end(arguments);
}

// A tester used wrongly is a mistake of the test, not of the kernel.
inline void require(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "kernel_test: precondition broken: %s\n", what);
    std::abort();
}

// Every element equal to the bit; names the first that is not.
inline void expect_same(const Floats &got, const Floats &wanted, const char *what) {
    if (got.same_bits(wanted)) return;
    size_t i = 0;
    while (std::memcmp(&got[i], &wanted[i], 4) == 0) i++;
    expect(false, "%s: row %zu lane %zu is %a, the scalar kernel says %a", what, i / TILE, i % TILE,
           static_cast<double>(got[i]), static_cast<double>(wanted[i]));
}

// A value in a result that no kernel computes: shows elements that were left alone.
constexpr float UNTOUCHED = -12345.678f;

// Lane counts that the kernels take.
constexpr uint32_t LANE_COUNTS[] = {16, 32, 48, 64};

}  // namespace edgebert
