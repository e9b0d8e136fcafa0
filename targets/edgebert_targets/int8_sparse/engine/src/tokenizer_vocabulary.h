// Token ids by text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgebert.h"

namespace edgebert {

// FNV-1a. It goes on byte by byte, so all prefixes of a piece are hashed in one pass.
constexpr uint64_t HASH_START = 0xCBF29CE484222325;

inline uint64_t hash_on(uint64_t hash, char byte) {
    return (hash ^ static_cast<uint8_t>(byte)) * 0x00000100000001B3;
}

inline uint64_t hash_on(uint64_t hash, std::string_view bytes) {
    for (const char byte : bytes) hash = hash_on(hash, byte);
    return hash;
}

class Vocabulary {
  public:
    // Copies the tokens; an empty one is an id without a token. EB_ERROR_FORMAT when two are equal, one is
    // longer than 4096 bytes, or they are too many.
    eb_status set(const std::vector<std::string> &tokens);

    // The id of `token`; -1: there is none.
    int32_t find(std::string_view token) const { return find(hash_on(HASH_START, token), "", token); }

    // The id of `prefix` and `piece` joined, whose hash is `hash`; -1: there is none.
    int32_t find(uint64_t hash, std::string_view prefix, std::string_view piece) const;

    // Bytes of the longest token.
    size_t longest() const { return longest_; }

  private:
    struct Slot {
        uint32_t tag;
        int32_t id;  // -1: empty
    };

    std::string bytes_;            // all tokens, one after the other
    std::vector<uint32_t> begin_;  // token i is bytes_[begin_[i]] .. bytes_[begin_[i + 1]]
    std::vector<Slot> slots_;      // open addressing, half full at most
    size_t longest_ = 0;
};

}  // namespace edgebert
