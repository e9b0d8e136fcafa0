// Memory aligned for the widest vectors.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace edgebert {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { std::free(data_); }

    // Room for `count` numbers; what was there is lost. Throws std::bad_alloc.
    void reserve(size_t count) {
        if (count <= count_) return;
        std::free(data_);
        data_ = nullptr;
        count_ = 0;
        // whole pages: a panel's rows then meet the cache's sets in the same way on every run
        const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
        data_ = static_cast<T *>(std::aligned_alloc(4096, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
        count_ = count;
    }

    T *get() const { return data_; }

  private:
    T *data_ = nullptr;
    size_t count_ = 0;
};

}  // namespace edgebert
