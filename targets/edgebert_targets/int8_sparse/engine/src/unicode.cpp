#include "unicode.h"

#include <algorithm>

namespace edgebert {

namespace {

constexpr uint32_t HANGUL_FIRST = 0xAC00, HANGUL_COUNT = 11172;

Expansion look_up(uint32_t c, const uint32_t *keys, const uint16_t *places, uint32_t count) {
    const uint32_t place = places[std::lower_bound(keys, keys + count, c) - keys];
    return {unicode_tables::pool + place / 8, place % 8};
}

// Bytes of the well-formed sequence at `text`, or, negated, of the ill-formed one's maximal subpart.
int sequence_length(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
    const uint32_t lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte's range rules out overlong forms, surrogates and what lies past U+10FFFF.
    uint32_t low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (int i = 1; i < length; i++) {
        if (static_cast<size_t>(i) >= text.size() || byte(i) < low || byte(i) > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

}  // namespace

Expansion lowercase(uint32_t c) {
    using namespace unicode_tables;
    return look_up(c, lowercase_keys, lowercase_places, lowercase_count);
}

Expansion decomposition(uint32_t c, uint32_t room[3]) {
    using namespace unicode_tables;
    if (c < HANGUL_FIRST || c >= HANGUL_FIRST + HANGUL_COUNT) {
        return look_up(c, decomposition_keys, decomposition_places, decomposition_count);
    }
    const uint32_t syllable = c - HANGUL_FIRST;
    room[0] = 0x1100 + syllable / 588;
    room[1] = 0x1161 + syllable % 588 / 28;
    room[2] = 0x11A7 + syllable % 28;
    return {room, syllable % 28 == 0 ? size_t{2} : size_t{3}};
}

uint32_t combining_class(uint32_t c) {
    using namespace unicode_tables;
    // The last range that starts at or before c.
    const uint32_t *after =
        std::upper_bound(combining_ranges, combining_ranges + combining_count, c * 256 + 255);
    return after == combining_ranges ? 0 : after[-1] % 256;
}

void append_utf8(uint32_t c, std::string *text) {
    const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80) {
        text->push_back(static_cast<char>(c));
    } else if (c < 0x800) {
        text->push_back(static_cast<char>(0xC0 | c >> 6));
        text->push_back(tail(0));
    } else if (c < 0x10000) {
        text->push_back(static_cast<char>(0xE0 | c >> 12));
        text->push_back(tail(6));
        text->push_back(tail(0));
    } else {
        text->push_back(static_cast<char>(0xF0 | c >> 18));
        text->push_back(tail(12));
        text->push_back(tail(6));
        text->push_back(tail(0));
    }
}

std::string_view valid_utf8(std::string_view text, std::string *repaired) {
    repaired->clear();
    size_t copied = 0;  // bytes of `text` that `repaired` stands for
    for (size_t at = 0; at < text.size();) {
        const int length = sequence_length(text.substr(at));
        if (length > 0) {
            at += static_cast<size_t>(length);
            continue;
        }
        repaired->append(text, copied, at - copied);
        append_utf8(0xFFFD, repaired);
        at += static_cast<size_t>(-length);
        copied = at;
    }
    if (copied == 0) return text;
    repaired->append(text, copied, text.size() - copied);
    return *repaired;
}

}  // namespace edgebert
