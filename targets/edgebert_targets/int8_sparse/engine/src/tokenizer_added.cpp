#include "tokenizer_added.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "unicode.h"

namespace edgebert {

namespace {

bool has(uint32_t c, Property property) { return (properties(c) & property) != 0; }

bool word_ends_at(std::string_view text, size_t at) {
    if (at == 0) return false;
    size_t start = previous_start(text, at);
    return has(next_code_point(text, &start), property_word);
}

bool word_starts_at(std::string_view text, size_t at) {
    return at < text.size() && has(next_code_point(text, &at), property_word);
}

size_t space_begin(std::string_view text, size_t at) {
    while (at > 0) {
        const size_t start = previous_start(text, at);
        size_t next = start;
        if (!has(next_code_point(text, &next), property_space)) break;
        at = start;
    }
    return at;
}

size_t space_end(std::string_view text, size_t at) {
    while (at < text.size()) {
        size_t next = at;
        if (!has(next_code_point(text, &next), property_space)) break;
        at = next;
    }
    return at;
}

}  // namespace

eb_status AddedTokens::set(std::vector<AddedToken> tokens) {
    for (const AddedToken &token : tokens) {
        if (token.content.empty() || token.content.size() > LONGEST) {
            return fail(EB_ERROR_FORMAT, "added token %d has %zu bytes; 1 to %zu are allowed", token.id,
                        token.content.size(), LONGEST);
        }
    }
    std::sort(tokens.begin(), tokens.end(),
              [](const AddedToken &a, const AddedToken &b) { return a.content < b.content; });
    for (size_t i = 1; i < tokens.size(); i++) {
        if (tokens[i].content == tokens[i - 1].content) {
            return fail(EB_ERROR_FORMAT, "added tokens %d and %d are the same text", tokens[i - 1].id,
                        tokens[i].id);
        }
    }
    for (const AddedToken &token : tokens) first_[static_cast<uint8_t>(token.content[0]) + 1]++;
    for (size_t b = 0; b < 256; b++) first_[b + 1] += first_[b];
    tokens_ = std::move(tokens);
    return EB_OK;
}

const AddedToken *AddedTokens::longest_at(std::string_view text, size_t at) const {
    const uint8_t start = static_cast<uint8_t>(text[at]);
    // Tokens that agree with the text in `depth` bytes; sorted, so one that ends here comes first.
    uint32_t low = first_[start], high = first_[start + 1];
    const AddedToken *found = nullptr;
    for (size_t depth = 1; low < high; depth++) {
        if (tokens_[low].content.size() == depth) found = &tokens_[low++];
        if (at + depth == text.size()) break;
        const uint8_t byte = static_cast<uint8_t>(text[at + depth]);
        const auto byte_of = [depth](const AddedToken &t) { return static_cast<uint8_t>(t.content[depth]); };
        const auto begin = tokens_.begin() + low, end = tokens_.begin() + high;
        const auto lower = std::lower_bound(begin, end, byte,
                                            [&](const AddedToken &t, uint8_t b) { return byte_of(t) < b; });
        const auto upper = std::upper_bound(lower, end, byte,
                                            [&](uint8_t b, const AddedToken &t) { return b < byte_of(t); });
        low = static_cast<uint32_t>(lower - tokens_.begin());
        high = static_cast<uint32_t>(upper - tokens_.begin());
    }
    return found;
}

bool AddedTokens::find(std::string_view text, size_t from, Match *match) const {
    for (size_t at = from; at < text.size(); at++) {
        const uint8_t byte = static_cast<uint8_t>(text[at]);
        if (first_[byte] == first_[byte + 1]) continue;
        if (const AddedToken *token = longest_at(text, at)) {
            *match = {at, at + token->content.size(), token};
            return true;
        }
    }
    return false;
}

void AddedTokens::split(std::string_view text, std::vector<Piece> *pieces) const {
    pieces->clear();
    size_t done = 0;  // may run ahead of the search: spaces a token swallowed are searched all the same
    Match match;
    for (size_t from = 0; !tokens_.empty() && find(text, from, &match); from = match.end) {
        const AddedToken &token = *match.token;
        if (token.single_word && (word_ends_at(text, match.begin) || word_starts_at(text, match.end)))
            continue;
        const size_t begin = token.strip_left ? std::max(space_begin(text, match.begin), done) : match.begin;
        const size_t end = token.strip_right ? space_end(text, match.end) : match.end;
        if (done < begin) pieces->push_back({done, begin, -1});
        if (begin < end) pieces->push_back({begin, end, token.id});
        done = end;
    }
    if (done < text.size()) pieces->push_back({done, text.size(), -1});
}

}  // namespace edgebert
