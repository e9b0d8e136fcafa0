// From text to ids, as Hugging Face `tokenizers` does it: BERT WordPiece and byte-level BPE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edgebert.h"

namespace edgebert {

// An added token: found in the text before anything else happens to it.
struct AddedToken {
    std::string content;
    int32_t id;
    bool single_word, strip_left, strip_right, normalized;
};

// What the model file says of its tokenizer.
struct TokenizerSettings {
    enum class Kind : uint32_t { wordpiece = 0, byte_bpe = 1 } kind = Kind::wordpiece;
    // BertNormalizer
    bool clean_text = true, chinese_characters = true, strip_accents = true, lowercase = true;
    // WordPiece: required. Byte-level BPE: stands for bytes that have no token; empty: they are left out.
    std::string unknown;
    std::string prefix = "##";           // WordPiece
    uint32_t max_word_characters = 100;  // WordPiece
    bool add_prefix_space = false;       // byte-level BPE
    std::vector<std::string> tokens;     // by id; empty: no such id, or one of an added token only
    std::vector<std::string> merges;     // "left right", by rank; byte-level BPE
    std::vector<AddedToken> added;
    // Templates as ids; -1 stands for the text, -2 for the pair. Token types beside them.
    std::vector<int32_t> single, single_types, pair, pair_types;
};

class Tokenizer {
  public:
    // Checks the settings and builds the look-up tables. EB_ERROR_FORMAT for settings that contradict
    // themselves.
    static eb_status create(TokenizerSettings settings, std::unique_ptr<Tokenizer> *out);
    ~Tokenizer();

    // Ids and token types of a text, or of a pair when `pair` is not null, cut to `max_length` tokens longest
    // first. EB_ERROR_INPUT when the special tokens alone are more, or a text has over 2^28 bytes.
    // std::bad_alloc passes through. Thread-safe.
    eb_status encode(const char *text, size_t text_size, const char *pair, size_t pair_size,
                     size_t max_length, std::vector<int32_t> *ids, std::vector<int32_t> *types) const;

  private:
    struct State;
    explicit Tokenizer(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace edgebert
