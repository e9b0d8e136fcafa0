// A file mapped into memory for reading.
#pragma once

#include <cstddef>
#include <cstdint>

#include "edgebert.h"

namespace edgebert {

class Mapping {
  public:
    Mapping() = default;
    ~Mapping();
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    // Maps the regular file at `path`, once. EB_ERROR_IO when it cannot be read, EB_ERROR_FORMAT when it is
    // empty.
    eb_status open(const char *path);

    // Page-aligned; null before open.
    const uint8_t *data() const { return data_; }
    size_t size() const { return size_; }

  private:
    uint8_t *data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace edgebert
