// BERT's words and pieces: splits at space and punctuation, then the longest pieces of each word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgebert.h"
#include "tokenizer.h"
#include "tokenizer_vocabulary.h"

namespace edgebert {

class WordPiece {
  public:
    // EB_ERROR_FORMAT when the unknown token is not in the vocabulary, or the vocabulary is refused.
    eb_status set(const TokenizerSettings &settings);

    // Appends the ids of normalized text, valid UTF-8, stopping at the first word's end with `limit` ids or
    // more. Thread-safe.
    void encode(std::string_view text, size_t limit, std::vector<int32_t> *ids) const;

  private:
    // Where a piece can end, and the hash of the bytes up to there.
    struct Cut {
        size_t end;
        uint64_t hash;
    };
    void add_word(std::string_view word, std::vector<Cut> *cuts, std::vector<int32_t> *ids) const;
    size_t add_piece(std::string_view word, size_t begin, std::vector<Cut> *cuts,
                     std::vector<int32_t> *ids) const;

    Vocabulary vocabulary_;
    std::string prefix_;
    uint64_t prefix_hash_ = HASH_START;
    size_t max_characters_ = 0;
    int32_t unknown_ = -1;
};

}  // namespace edgebert
