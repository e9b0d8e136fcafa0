// Finds added tokens in a text: leftmost, of those the longest, then the conditions of each token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgebert.h"
#include "tokenizer.h"

namespace edgebert {

// A piece of a text: an added token, or, with id -1, text between such tokens.
struct Piece {
    size_t begin, end;
    int32_t id;
};

class AddedTokens {
  public:
    // `token.content` is what to look for. EB_ERROR_FORMAT when two are equal, or one is empty or too long.
    eb_status set(std::vector<AddedToken> tokens);

    bool empty() const { return tokens_.empty(); }

    // The pieces of `text`, valid UTF-8; empty texts between tokens are left out. Thread-safe.
    void split(std::string_view text, std::vector<Piece> *pieces) const;

    static constexpr size_t LONGEST = 1024;  // bytes

  private:
    struct Match {
        size_t begin, end;
        const AddedToken *token;
    };
    const AddedToken *longest_at(std::string_view text, size_t at) const;
    bool find(std::string_view text, size_t from, Match *match) const;

    std::vector<AddedToken> tokens_;  // sorted by content
    uint32_t first_[257] = {};        // tokens_[first_[b]] .. tokens_[first_[b + 1]] start with byte b
};

}  // namespace edgebert
