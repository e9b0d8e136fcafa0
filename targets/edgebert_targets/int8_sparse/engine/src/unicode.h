// What a code point is to the tokenizer: classes, lower case, canonical decomposition; and UTF-8.
// The facts are those of the Hugging Face `tokenizers` library, whose parts follow different Unicode
// versions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "unicode_tables.h"

namespace edgebert {

enum Property : uint32_t {
    property_space = 1 << 0,            // White_Space; \s of both regular expression engines
    property_control = 1 << 1,          // dropped by clean_text
    property_chinese = 1 << 2,          // set apart by handle_chinese_chars
    property_nonspacing_mark = 1 << 3,  // dropped by strip_accents, after decomposition
    property_punctuation = 1 << 4,      // a word of its own for BertPreTokenizer
    property_letter = 1 << 5,           // \p{L} of the byte-level pre-tokenizer
    property_number = 1 << 6,           // \p{N} of it
    property_word = 1 << 7,             // \w next to an added token
    property_decomposes = 1 << 8,       // has a canonical decomposition
    property_combines = 1 << 9,         // canonical combining class other than 0
    property_has_lowercase = 1 << 10,   // its lower case is another
};

constexpr uint32_t CODE_POINT_LIMIT = 0x110000;

// The properties of `c` < CODE_POINT_LIMIT.
inline uint32_t properties(uint32_t c) {
    using namespace unicode_tables;
    return kinds[blocks[block_index[c / 128] * 128 + c % 128]];
}

// Code points that replace one; they live as long as the program.
struct Expansion {
    const uint32_t *first;
    size_t count;
};

// Full lower case; only for code points with property_has_lowercase.
Expansion lowercase(uint32_t c);

// Canonical decomposition, complete, into at most four code points; only for those with property_decomposes.
// `room` keeps the jamo of a Hangul syllable.
Expansion decomposition(uint32_t c, uint32_t room[3]);

// A number that orders code points as their canonical combining classes do; 0 for starters.
uint32_t combining_class(uint32_t c);

// The code point at `at` of valid UTF-8, and `at` moved past it.
inline uint32_t next_code_point(std::string_view text, size_t *at) {
    const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[*at + i])); };
    const uint32_t lead = byte(0);
    if (lead < 0x80) {
        *at += 1;
        return lead;
    }
    uint32_t c;
    if (lead < 0xE0) {
        c = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
        *at += 2;
    } else if (lead < 0xF0) {
        c = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
        *at += 3;
    } else {
        c = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
        *at += 4;
    }
    return c;
}

// Start of the code point that ends before `at` > 0 in valid UTF-8.
inline size_t previous_start(std::string_view text, size_t at) {
    do at--;
    while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
    return at;
}

// Whether a byte of valid UTF-8 starts a code point.
inline bool starts_code_point(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }

void append_utf8(uint32_t c, std::string *text);

// `text` itself when it is valid UTF-8. Else `*repaired` with U+FFFD for each maximal subpart of an
// ill-formed sequence, as Python's bytes.decode("utf-8", "replace") does.
std::string_view valid_utf8(std::string_view text, std::string *repaired);

}  // namespace edgebert
