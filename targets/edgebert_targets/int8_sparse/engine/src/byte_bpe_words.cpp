// GPT-2's split: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#include "byte_bpe.h"
#include "unicode.h"

namespace edgebert {

namespace {

constexpr uint32_t CLASSES = property_space | property_letter | property_number;

uint32_t class_at(std::string_view text, size_t *at) {
    return properties(next_code_point(text, at)) & CLASSES;
}

// Bytes of the contraction at `at`, where an apostrophe is; 0 for none.
size_t contraction(std::string_view text, size_t at) {
    const char first = at + 1 < text.size() ? text[at + 1] : '\0';
    const char second = at + 2 < text.size() ? text[at + 2] : '\0';
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
        return 3;
    return 0;
}

}  // namespace

size_t gpt2_word(std::string_view text, size_t at) {
    if (text[at] == '\'') {
        if (const size_t length = contraction(text, at)) return length;
    }
    size_t end = text[at] == ' ' && at + 1 < text.size() ? at + 1 : at;
    const uint32_t kind = class_at(text, &end);
    if ((kind & property_space) == 0) {
        for (size_t next = end; next < text.size() && class_at(text, &next) == kind;) end = next;
        return end - at;
    }
    // A run of space leaves its last character to the word behind it, if it has another.
    end = at;
    size_t last = at;
    for (size_t next = at; next < text.size() && (class_at(text, &next) & property_space) != 0;) {
        last = end;
        end = next;
    }
    return end < text.size() && last > at ? last - at : end - at;
}

}  // namespace edgebert
