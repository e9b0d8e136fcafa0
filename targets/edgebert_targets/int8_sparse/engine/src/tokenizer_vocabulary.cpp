#include "tokenizer_vocabulary.h"

#include <algorithm>

#include "error.h"

namespace edgebert {

namespace {

constexpr size_t LONGEST_TOKEN = 4096;          // bytes; bounds the work a position can take
constexpr size_t MOST_BYTES = size_t{1} << 30;  // of all tokens
constexpr size_t MOST_TOKENS = size_t{1} << 24;

// FNV's low bits depend on few of the input's, so its high bits are folded in.
size_t slot_of(uint64_t hash) { return static_cast<size_t>(hash ^ hash >> 32); }
uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

eb_status Vocabulary::set(const std::vector<std::string> &tokens) {
    if (tokens.size() > MOST_TOKENS) {
        return fail(EB_ERROR_FORMAT, "%zu tokens; at most %zu are allowed", tokens.size(), MOST_TOKENS);
    }
    size_t total = 0;
    for (const std::string &token : tokens) {
        if (token.size() > LONGEST_TOKEN || total > MOST_BYTES - token.size()) {
            return fail(EB_ERROR_FORMAT, "a token of %zu bytes; at most %zu, in all %zu, are allowed",
                        token.size(), LONGEST_TOKEN, MOST_BYTES);
        }
        total += token.size();
        longest_ = std::max(longest_, token.size());
    }
    size_t capacity = 16;
    while (capacity < 2 * tokens.size()) capacity *= 2;
    slots_.assign(capacity, Slot{0, -1});
    bytes_.reserve(total);
    begin_.reserve(tokens.size() + 1);
    begin_.push_back(0);
    for (size_t i = 0; i < tokens.size(); i++) {
        const std::string &token = tokens[i];
        if (!token.empty()) {
            const uint64_t hash = hash_on(HASH_START, token);
            if (const int32_t other = find(hash, "", token); other >= 0) {
                return fail(EB_ERROR_FORMAT, "tokens %d and %zu are the same text", other, i);
            }
            size_t slot = slot_of(hash) & (capacity - 1);
            while (slots_[slot].id >= 0) slot = (slot + 1) & (capacity - 1);
            slots_[slot] = {tag_of(hash), static_cast<int32_t>(i)};
        }
        bytes_ += token;
        begin_.push_back(static_cast<uint32_t>(bytes_.size()));
    }
    return EB_OK;
}

int32_t Vocabulary::find(uint64_t hash, std::string_view prefix, std::string_view piece) const {
    const size_t mask = slots_.size() - 1;
    const uint32_t tag = tag_of(hash);
    for (size_t slot = slot_of(hash) & mask; slots_[slot].id >= 0; slot = (slot + 1) & mask) {
        if (slots_[slot].tag != tag) continue;
        const size_t index = static_cast<size_t>(slots_[slot].id);
        const std::string_view token(bytes_.data() + begin_[index], begin_[index + 1] - begin_[index]);
        if (token.size() == prefix.size() + piece.size() && token.substr(0, prefix.size()) == prefix &&
            token.substr(prefix.size()) == piece) {
            return slots_[slot].id;
        }
    }
    return -1;
}

}  // namespace edgebert
