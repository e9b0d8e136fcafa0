// Rice codes as docs/formats.md has them: quotient in one-bits ended by a zero-bit, then k low bits, lowest
// first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgebert {

// Reads numbers from `size` bytes. Beyond the end it reads zero-bits; `at_end` tells.
class RiceReader {
  public:
    // `k` is at most 7.
    RiceReader(const uint8_t *data, uint64_t size, uint32_t k) : data_(data), size_(size), k_(k) {}

    // The next number, or `limit` when it is that or more. `limit` is at most 2^16.
    uint32_t next(uint32_t limit) {
        if (valid_ < 32) refill();
        uint32_t quotient = static_cast<uint32_t>(__builtin_ctzll(~bits_ | uint64_t{1} << 63));
        if (quotient + 1 + k_ > valid_) return next_long(limit);
        bits_ >>= quotient + 1;  // at most 57
        uint32_t low = static_cast<uint32_t>(bits_) & ((1u << k_) - 1);
        bits_ >>= k_;
        valid_ -= quotient + 1 + k_;
        uint32_t number = quotient << k_ | low;
        return number < limit ? number : limit;
    }

    // Whether all bytes and none beyond them were read, the rest of the last one being zero-bits.
    bool at_end() {
        refill();
        uint64_t position = fetched_ * 8 - valid_;
        return (position + 7) / 8 == size_ && bits_ == 0;
    }

  private:
    // Tops `bits_` up to 57 or more valid bits. Bits above `valid_` stay zero.
    void refill() {
        if (fetched_ + 8 <= size_) {
            uint64_t more;
            std::memcpy(&more, data_ + fetched_, sizeof more);
            uint32_t bytes = (63 - valid_) / 8;
            bits_ |= (more & ((uint64_t{1} << 8 * bytes) - 1)) << valid_;
            fetched_ += bytes;
            valid_ += 8 * bytes;
            return;
        }
        while (valid_ <= 56) {
            uint64_t byte = fetched_ < size_ ? data_[fetched_] : 0;
            bits_ |= byte << valid_;
            valid_ += 8;
            ++fetched_;
        }
    }

    // Of any length, a bit at a time.
    uint32_t next_long(uint32_t limit) {
        uint32_t number = 0;
        while (take()) {
            number += 1u << k_;
            if (number >= limit) return limit;
        }
        for (uint32_t bit = 0; bit < k_; ++bit) number |= static_cast<uint32_t>(take()) << bit;
        return number < limit ? number : limit;
    }

    bool take() {
        if (valid_ == 0) refill();
        bool bit = bits_ & 1;
        bits_ >>= 1;
        --valid_;
        return bit;
    }

    const uint8_t *data_;
    uint64_t size_;
    uint32_t k_;
    uint64_t fetched_ = 0;  // bytes taken into `bits_`, those beyond the end included
    uint64_t bits_ = 0;
    uint32_t valid_ = 0;
};

}  // namespace edgebert
