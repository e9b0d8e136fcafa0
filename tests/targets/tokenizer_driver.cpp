// Runs the engine's tokenizer over a stream, for test_engine_tokenizer.py.
//
// Standard input, little-endian: the settings, then requests until the end.
//   settings: u32 kind, clean_text, chinese_characters, strip_accents, lowercase, max_word_characters,
//     add_prefix_space; strings unknown, prefix; lists of strings tokens, merges; u32 count of added tokens,
//     each a string and u32 id, single_word, strip_left, strip_right, normalized; lists single, single_types,
//     pair, pair_types
//   request: u32 max_length, string text, u32 whether a pair follows, string pair if so
//   string: u32 size, bytes; list: u32 count, items
// Standard output: for the settings and each request u32 status; after EB_OK of a request u32 count, ids,
// types; after a failure the message as a string. Stops when the settings fail.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "tokenizer.h"

namespace {

using edgebert::Tokenizer;
using edgebert::TokenizerSettings;

void read_exactly(void *data, size_t size) {
    if (std::fread(data, 1, size, stdin) != size) std::exit(2);
}

uint32_t read_u32() {
    uint32_t value;
    read_exactly(&value, sizeof value);
    return value;
}

bool read_flag() { return read_u32() != 0; }

std::string read_string() {
    std::string value(read_u32(), '\0');
    read_exactly(&value[0], value.size());
    return value;
}

std::vector<std::string> read_strings() {
    std::vector<std::string> values(read_u32());
    for (std::string &value : values) value = read_string();
    return values;
}

std::vector<int32_t> read_numbers() {
    std::vector<int32_t> values(read_u32());
    for (int32_t &value : values) value = static_cast<int32_t>(read_u32());
    return values;
}

TokenizerSettings read_settings() {
    TokenizerSettings settings;
    settings.kind = static_cast<TokenizerSettings::Kind>(read_u32());
    settings.clean_text = read_flag();
    settings.chinese_characters = read_flag();
    settings.strip_accents = read_flag();
    settings.lowercase = read_flag();
    settings.max_word_characters = read_u32();
    settings.add_prefix_space = read_flag();
    settings.unknown = read_string();
    settings.prefix = read_string();
    settings.tokens = read_strings();
    settings.merges = read_strings();
    settings.added.resize(read_u32());
    for (edgebert::AddedToken &token : settings.added) {
        token.content = read_string();
        token.id = static_cast<int32_t>(read_u32());
        token.single_word = read_flag();
        token.strip_left = read_flag();
        token.strip_right = read_flag();
        token.normalized = read_flag();
    }
    settings.single = read_numbers();
    settings.single_types = read_numbers();
    settings.pair = read_numbers();
    settings.pair_types = read_numbers();
    return settings;
}

void write(const void *data, size_t size) {
    if (std::fwrite(data, 1, size, stdout) != size) std::exit(3);
}

void write_u32(uint32_t value) { write(&value, sizeof value); }

bool write_status(eb_status status) {
    write_u32(status);
    if (status == EB_OK) return true;
    const std::string message = edgebert::last_error();
    write_u32(static_cast<uint32_t>(message.size()));
    write(message.data(), message.size());
    return false;
}

void answer(const Tokenizer &tokenizer, uint32_t max_length) {
    const std::string text = read_string();
    const bool has_pair = read_flag();
    const std::string pair = has_pair ? read_string() : std::string();
    std::vector<int32_t> ids, types;
    if (!write_status(tokenizer.encode(text.data(), text.size(), has_pair ? pair.data() : nullptr,
                                       pair.size(), max_length, &ids, &types))) {
        return;
    }
    write_u32(static_cast<uint32_t>(ids.size()));
    write(ids.data(), ids.size() * sizeof ids[0]);
    write(types.data(), types.size() * sizeof types[0]);
}

}  // namespace

int main() {
    std::unique_ptr<Tokenizer> tokenizer;
    if (!write_status(Tokenizer::create(read_settings(), &tokenizer))) return 0;
    std::fflush(stdout);
    uint32_t max_length;
    while (std::fread(&max_length, sizeof max_length, 1, stdin) == 1) {
        answer(*tokenizer, max_length);
        std::fflush(stdout);
    }
    return 0;
}
