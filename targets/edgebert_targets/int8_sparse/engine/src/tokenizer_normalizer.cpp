#include "tokenizer_normalizer.h"

#include <algorithm>

#include "unicode.h"

namespace edgebert {

BertNormalizer::BertNormalizer(bool clean_text, bool chinese_characters, bool strip_accents, bool lowercase)
    : clean_text_(clean_text),
      chinese_characters_(chinese_characters),
      strip_accents_(strip_accents),
      lowercase_(lowercase),
      identity_(!clean_text && !chinese_characters && !strip_accents && !lowercase) {
    for (uint32_t c = 0; c < 128; c++) {
        const uint32_t kind = properties(c);
        ascii_[c] = static_cast<char>(c);
        if (clean_text && (kind & property_space) != 0) ascii_[c] = ' ';
        if (clean_text && (kind & property_control) != 0) ascii_[c] = DROPPED;
        if (lowercase && c >= 'A' && c <= 'Z') ascii_[c] = static_cast<char>(c - 'A' + 'a');
    }
}

void BertNormalizer::normalize(std::string_view text, std::string *out) const {
    out->clear();
    if (identity_) {
        out->assign(text);
        return;
    }
    out->reserve(text.size() + text.size() / 8);
    Pending pending;
    for (size_t at = 0; at < text.size();) {
        const uint8_t byte = static_cast<uint8_t>(text[at]);
        if (byte >= 0x80) {
            add(next_code_point(text, &at), &pending, out);
            continue;
        }
        at++;
        if (ascii_[byte] == DROPPED) continue;
        if (!pending.empty()) flush(&pending, out);
        out->push_back(ascii_[byte]);
    }
    flush(&pending, out);
}

void BertNormalizer::add(uint32_t c, Pending *pending, std::string *out) const {
    const uint32_t kind = properties(c);
    if (clean_text_ && (kind & property_control) != 0) return;
    if (clean_text_ && (kind & property_space) != 0) {
        decomposed(' ', pending, out);
        return;
    }
    const bool apart = chinese_characters_ && (kind & property_chinese) != 0;
    if (apart) decomposed(' ', pending, out);
    if (strip_accents_ && (kind & property_decomposes) != 0) {
        uint32_t room[3];
        const Expansion parts = decomposition(c, room);
        for (size_t i = 0; i < parts.count; i++) decomposed(parts.first[i], pending, out);
    } else {
        decomposed(c, pending, out);
    }
    if (apart) decomposed(' ', pending, out);
}

void BertNormalizer::decomposed(uint32_t c, Pending *pending, std::string *out) const {
    const uint32_t kind = properties(c);
    if (strip_accents_ && (kind & property_combines) != 0) {
        // Class, then arrival, then the code point itself: plain sorting is then a stable sort by class.
        const uint64_t rank = combining_class(c);
        pending->push_back(rank << 56 | static_cast<uint64_t>(pending->size()) << 24 | c);
        return;
    }
    if (!pending->empty()) flush(pending, out);
    emit(c, kind, out);
}

void BertNormalizer::flush(Pending *pending, std::string *out) const {
    std::sort(pending->begin(), pending->end());
    for (const uint64_t entry : *pending) {
        const uint32_t c = static_cast<uint32_t>(entry & 0xFFFFFF);
        emit(c, properties(c), out);
    }
    pending->clear();
}

void BertNormalizer::emit(uint32_t c, uint32_t kind, std::string *out) const {
    if (strip_accents_ && (kind & property_nonspacing_mark) != 0) return;
    if (!lowercase_ || (kind & property_has_lowercase) == 0) {
        append_utf8(c, out);
        return;
    }
    const Expansion lower = lowercase(c);
    for (size_t i = 0; i < lower.count; i++) append_utf8(lower.first[i], out);
}

}  // namespace edgebert
