// libFuzzer over the tokenizer: any bytes as text and as settings.
//
// First byte: the low bits choose a tokenizer of those below, or one made from the input; then a length to
// cut to. The rest is text, with a zero byte between text and pair, if any.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer.h"

using namespace edgebert;

namespace {

void check(bool holds) {
    if (!holds) std::abort();
}

// Reads the input from its front; nothing is left: zeros.
class Reader {
  public:
    Reader(const uint8_t *data, size_t size) : data_(data), size_(size) {}

    uint8_t byte() {
        if (size_ == 0) return 0;
        size_--;
        return *data_++;
    }

    bool flag() { return (byte() & 1) != 0; }

    // A few bytes, their number first.
    std::string text(size_t most) {
        const size_t size = std::min(size_, byte() % (most + 1));
        const std::string text(reinterpret_cast<const char *>(data_), size);
        data_ += size;
        size_ -= size;
        return text;
    }

    std::string rest() { return std::string(reinterpret_cast<const char *>(data_), size_); }

  private:
    const uint8_t *data_;
    size_t size_;
};

TokenizerSettings bert(bool lowercase, bool clean) {
    TokenizerSettings settings;
    settings.clean_text = clean;
    settings.strip_accents = settings.lowercase = lowercase;
    settings.unknown = "[UNK]";
    settings.max_word_characters = 20;
    settings.tokens = {"[PAD]",    "[UNK]",      "[CLS]",        "[SEP]", "a",   "b",  "ab",
                       "abc",      "##a",        "##b",          "##bc",  "##c", "'",  ",",
                       "\xC3\xA9", "##\xCC\x81", "\xE4\xB8\xAD", "##",    "the", "##e"};
    settings.added = {{"[SEP]", 3, false, false, false, false}, {"<x>", 20, true, true, false, true},
                      {"<x> ", 21, false, true, true, true},    {"\xC3\x89t", 22, false, false, true, true},
                      {" ", 23, false, false, true, false},     {"aab", 24, false, true, false, false}};
    settings.single = {2, -1, 3};
    settings.single_types = {0, 0, 0};
    settings.pair = {2, -1, 3, -2, 3};
    settings.pair_types = {0, 0, 0, 1, 1};
    return settings;
}

TokenizerSettings roberta(bool add_prefix_space, bool whole_alphabet) {
    TokenizerSettings settings;
    settings.kind = TokenizerSettings::Kind::byte_bpe;
    settings.clean_text = settings.chinese_characters = settings.strip_accents = settings.lowercase = false;
    settings.add_prefix_space = add_prefix_space;
    settings.tokens = {"<s>", "</s>", "<mask>"};
    for (uint32_t c = 0x21; c < 0x144; c++) {
        const bool is_gap = (c > 0x7E && c < 0xA1) || c == 0xAD || (!whole_alphabet && c % 11 == 0);
        if (is_gap) continue;
        std::string token;
        if (c >= 0x80) token.push_back(static_cast<char>(0xC0 | c >> 6));
        token.push_back(static_cast<char>(c < 0x80 ? c : 0x80 | (c & 0x3F)));
        settings.tokens.push_back(token);
    }
    for (const char *merge :
         {"a a", "a b", "aa aa", "\xC4\xA0 a", "b a", "ab ab", "\xC4\xA0 aa", "h e", "r he"}) {
        std::string joined = merge;
        joined.erase(joined.find(' '), 1);
        settings.merges.push_back(merge);
        settings.tokens.push_back(joined);
    }
    settings.added = {{"<s>", 0, false, false, false, false},
                      {"</s>", 1, false, false, false, false},
                      {"<mask>", 2, false, true, false, false}};
    settings.single = {0, -1, 1};
    settings.single_types = {0, 0, 0};
    settings.pair = {0, -1, 1, 1, -2, 1};
    settings.pair_types = {0, 0, 0, 0, 0, 0};
    return settings;
}

std::vector<int32_t> numbers(Reader *reader) {
    std::vector<int32_t> values(reader->byte() % 8);
    for (int32_t &value : values) value = static_cast<int8_t>(reader->byte());
    return values;
}

TokenizerSettings arbitrary(Reader *reader) {
    TokenizerSettings settings;
    settings.kind = static_cast<TokenizerSettings::Kind>(reader->byte() % 3);
    settings.clean_text = reader->flag();
    settings.chinese_characters = reader->flag();
    settings.strip_accents = reader->flag();
    settings.lowercase = reader->flag();
    settings.add_prefix_space = reader->flag();
    settings.prefix = reader->text(3);
    settings.max_word_characters = reader->byte();
    settings.tokens.resize(reader->byte() % 16);
    for (std::string &token : settings.tokens) token = reader->text(6);
    if (!settings.tokens.empty() && reader->flag()) settings.unknown = settings.tokens[0];
    settings.merges.resize(reader->byte() % 4);
    for (std::string &merge : settings.merges) merge = reader->text(6);
    settings.added.resize(reader->byte() % 6);
    for (AddedToken &token : settings.added) {
        token.content = reader->text(6);
        token.id = static_cast<int8_t>(reader->byte());
        const uint8_t flags = reader->byte();
        token.single_word = (flags & 1) != 0;
        token.strip_left = (flags & 2) != 0;
        token.strip_right = (flags & 4) != 0;
        token.normalized = (flags & 8) != 0;
    }
    settings.single = {-1};
    settings.single_types = {0};
    settings.pair = {-1, -2};
    settings.pair_types = {0, 1};
    if (reader->flag()) settings.single = numbers(reader), settings.single_types = numbers(reader);
    if (reader->flag()) settings.pair = numbers(reader), settings.pair_types = numbers(reader);
    return settings;
}

std::unique_ptr<Tokenizer> made(TokenizerSettings settings) {
    std::unique_ptr<Tokenizer> tokenizer;
    check(Tokenizer::create(std::move(settings), &tokenizer) == EB_OK);
    return tokenizer;
}

void use(const Tokenizer &tokenizer, size_t max_length, const std::string &text) {
    std::vector<int32_t> ids, types, all, all_types;
    const eb_status status = tokenizer.encode(text.data(), text.size(), nullptr, 0, max_length, &ids, &types);
    check(status == EB_OK || status == EB_ERROR_INPUT);
    if (status == EB_OK) {
        check(ids.size() <= max_length && ids.size() == types.size());
        // A text that was cut starts like the whole one, up to the special tokens that may follow.
        check(tokenizer.encode(text.data(), text.size(), nullptr, 0, SIZE_MAX, &all, &all_types) == EB_OK);
        check(ids.size() == std::min(max_length, all.size()));
    }
    const size_t zero = text.find('\0');
    if (zero == std::string::npos) return;
    const char *pair = text.data() + zero + 1;
    const size_t pair_size = text.size() - zero - 1;
    if (tokenizer.encode(text.data(), zero, pair, pair_size, max_length, &ids, &types) != EB_OK) return;
    check(ids.size() <= max_length && ids.size() == types.size());
    check(tokenizer.encode(text.data(), zero, pair, pair_size, SIZE_MAX, &all, &all_types) == EB_OK);
    check(ids.size() == std::min(max_length, all.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const std::unique_ptr<Tokenizer> tokenizers[] = {
        made(bert(true, true)), made(bert(false, true)), made(bert(true, false)), made(roberta(false, true)),
        made(roberta(true, false))};
    Reader reader(data, size);
    const uint8_t choice = reader.byte() % 8;
    const size_t max_length = reader.byte();
    if (choice < std::size(tokenizers)) {
        use(*tokenizers[choice], max_length, reader.rest());
        return 0;
    }
    std::unique_ptr<Tokenizer> tokenizer;
    const eb_status status = Tokenizer::create(arbitrary(&reader), &tokenizer);
    check(status == EB_OK || status == EB_ERROR_FORMAT);
    if (status == EB_OK) use(*tokenizer, max_length, reader.rest());
    return 0;
}
