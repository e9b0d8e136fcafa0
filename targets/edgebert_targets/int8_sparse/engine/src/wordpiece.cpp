#include "wordpiece.h"

#include <algorithm>

#include "error.h"
#include "unicode.h"

namespace edgebert {

eb_status WordPiece::set(const TokenizerSettings &settings) {
    if (const eb_status status = vocabulary_.set(settings.tokens); status != EB_OK) return status;
    unknown_ = settings.unknown.empty() ? -1 : vocabulary_.find(settings.unknown);
    if (unknown_ < 0) {
        return fail(EB_ERROR_FORMAT, "the unknown token '%.64s' is not in the vocabulary",
                    settings.unknown.c_str());
    }
    prefix_ = settings.prefix;
    prefix_hash_ = hash_on(HASH_START, prefix_);
    max_characters_ = settings.max_word_characters;
    return EB_OK;
}

// Adds the longest piece that starts at `begin` and returns its end; 0: there is none.
size_t WordPiece::add_piece(std::string_view word, size_t begin, std::vector<Cut> *cuts,
                            std::vector<int32_t> *ids) const {
    const std::string_view prefix = begin > 0 ? std::string_view(prefix_) : std::string_view();
    const size_t room = vocabulary_.longest() - std::min(vocabulary_.longest(), prefix.size());
    const size_t stop = std::min(word.size(), begin + room);
    uint64_t hash = begin > 0 ? prefix_hash_ : HASH_START;
    cuts->clear();
    for (size_t at = begin; at < stop;) {
        hash = hash_on(hash, word[at++]);
        if (at == word.size() || starts_code_point(word[at])) cuts->push_back({at, hash});
    }
    for (; !cuts->empty(); cuts->pop_back()) {
        const Cut cut = cuts->back();
        const int32_t id = vocabulary_.find(cut.hash, prefix, word.substr(begin, cut.end - begin));
        if (id < 0) continue;
        ids->push_back(id);
        return cut.end;
    }
    return 0;
}

void WordPiece::add_word(std::string_view word, std::vector<Cut> *cuts, std::vector<int32_t> *ids) const {
    const size_t before = ids->size();
    // There are at least as many bytes as characters, so most words need no counting.
    bool is_known =
        word.size() <= max_characters_ ||
        static_cast<size_t>(std::count_if(word.begin(), word.end(), starts_code_point)) <= max_characters_;
    for (size_t begin = 0; is_known && begin < word.size();) {
        begin = add_piece(word, begin, cuts, ids);
        is_known = begin > 0;
    }
    if (is_known) return;
    ids->resize(before);
    ids->push_back(unknown_);
}

void WordPiece::encode(std::string_view text, size_t limit, std::vector<int32_t> *ids) const {
    std::vector<Cut> cuts;
    size_t word = 0;  // where the current word starts
    for (size_t at = 0; at < text.size();) {
        const size_t start = at;
        const uint32_t kind = properties(next_code_point(text, &at));
        if ((kind & (property_space | property_punctuation)) == 0) continue;
        if (word < start) add_word(text.substr(word, start - word), &cuts, ids);
        if ((kind & property_space) == 0) add_word(text.substr(start, at - start), &cuts, ids);
        word = at;
        if (ids->size() >= limit) return;
    }
    if (word < text.size()) add_word(text.substr(word), &cuts, ids);
}

}  // namespace edgebert
