// Memory aligned for the widest vectors.
#pragma once

#include <cstddef>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "guard.h"

namespace edgebert {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { std::free(data_); }

    // Room for `count` numbers; what was there is lost. Lack of memory ends the guarded call.
    void reserve(size_t count) {
        if (count <= count_) return;
        std::free(data_);
        data_ = nullptr;
        count_ = 0;
        // Large pages for what is large: a pass walks through all of it, and small pages cost a few percent.
        const size_t large = size_t{2} << 20;
        const size_t page = count * sizeof(T) >= large / 2 ? large : 4096;
        const size_t bytes = (count * sizeof(T) + page - 1) / page * page;
        void *memory = nullptr;
        if (posix_memalign(&memory, page, bytes) != 0) out_of_memory();
        data_ = static_cast<T *>(memory);
        count_ = count;
#if defined(__linux__)
        if (page == large)
            madvise(data_, bytes, MADV_HUGEPAGE);  // a hint: whether it is taken changes nothing
#endif
    }

    T *get() const { return data_; }

  private:
    T *data_ = nullptr;
    size_t count_ = 0;
};

}  // namespace edgebert
