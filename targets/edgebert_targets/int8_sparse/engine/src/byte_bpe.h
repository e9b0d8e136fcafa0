// Byte-level BPE as GPT-2 and RoBERTa use it: words by GPT-2's regular expression, then merges by rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "edgebert.h"
#include "tokenizer.h"

namespace edgebert {

class ByteBpe {
  public:
    // EB_ERROR_FORMAT when the vocabulary is refused, or a merge is not "left right" of tokens whose joining
    // is one.
    eb_status set(const TokenizerSettings &settings);

    // Appends the ids of one piece of text between added tokens, valid UTF-8, not empty, stopping at the
    // first word's end with `limit` ids or more. Thread-safe.
    void encode(std::string_view text, size_t limit, std::vector<int32_t> *ids) const;

  private:
    struct Merge {
        uint64_t pair;  // left << 32 | right
        uint32_t rank;
        int32_t id;  // -1: empty slot
    };
    struct Symbol {
        int32_t id;  // -1: merged into an earlier one
        uint32_t previous, next;
    };
    struct Candidate {
        uint32_t rank, position;
        int32_t left, right, id;
    };
    struct Scratch {
        std::vector<Symbol> symbols;
        std::vector<Candidate> heap;
    };

    const Merge *find_merge(int32_t left, int32_t right) const;
    void add_candidate(uint32_t position, Scratch *scratch) const;
    void add_word(std::string_view word, Scratch *scratch, std::vector<int32_t> *ids) const;

    int32_t byte_ids_[256];      // -1: the byte is not in the vocabulary and is left out
    std::vector<Merge> merges_;  // open addressing, half full at most
    uint32_t shift_ = 63;        // 64 minus the bits of a slot's number
    bool add_prefix_space_ = false;
};

// Bytes of the word that starts at `at` < text.size().
size_t gpt2_word(std::string_view text, size_t at);

}  // namespace edgebert
