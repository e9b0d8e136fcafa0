#include "byte_bpe.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "tokenizer_vocabulary.h"
#include "unicode.h"

namespace edgebert {

namespace {

constexpr uint32_t NONE = UINT32_MAX;
constexpr size_t MOST_MERGES = size_t{1} << 24;

// Bytes that print stand for themselves, the others for U+0100 and on, in order.
void byte_characters(uint32_t characters[256]) {
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
        const bool prints = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
        characters[byte] = prints ? byte : next++;
    }
}

uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Multiplicative hashing: the product's high bits.
size_t slot_of(uint64_t pair, uint32_t shift) {
    return static_cast<size_t>((pair ^ pair >> 32) * 0x9E3779B97F4A7C15 >> shift);
}

}  // namespace

eb_status ByteBpe::set(const TokenizerSettings &settings) {
    Vocabulary vocabulary;
    if (const eb_status status = vocabulary.set(settings.tokens); status != EB_OK) return status;
    int32_t unknown = -1;
    if (!settings.unknown.empty() && (unknown = vocabulary.find(settings.unknown)) < 0) {
        return fail(EB_ERROR_FORMAT, "the unknown token '%.64s' is not in the vocabulary",
                    settings.unknown.c_str());
    }
    uint32_t characters[256];
    byte_characters(characters);
    for (size_t byte = 0; byte < 256; byte++) {
        std::string character;
        append_utf8(characters[byte], &character);
        const int32_t id = vocabulary.find(character);
        byte_ids_[byte] = id < 0 ? unknown : id;
    }
    if (settings.merges.size() > MOST_MERGES) {
        return fail(EB_ERROR_FORMAT, "%zu merges; at most %zu are allowed", settings.merges.size(),
                    MOST_MERGES);
    }
    uint32_t bits = 4;
    while (size_t{1} << bits < 2 * settings.merges.size()) bits++;
    shift_ = 64 - bits;
    merges_.assign(size_t{1} << bits, Merge{0, 0, -1});
    for (size_t rank = 0; rank < settings.merges.size(); rank++) {
        const std::string &merge = settings.merges[rank];
        const size_t space = merge.find(' ');
        const std::string_view left = std::string_view(merge).substr(0, space);
        const std::string_view right =
            space == std::string::npos ? std::string_view() : std::string_view(merge).substr(space + 1);
        const int32_t left_id = vocabulary.find(left), right_id = vocabulary.find(right);
        std::string joined(left);
        joined += right;
        const int32_t id = vocabulary.find(joined);
        if (left_id < 0 || right_id < 0 || id < 0) {
            return fail(EB_ERROR_FORMAT, "merge %zu, '%.64s', is not two tokens that make a third", rank,
                        merge.c_str());
        }
        const uint64_t pair = pair_of(left_id, right_id);
        const size_t mask = merges_.size() - 1;
        size_t slot = slot_of(pair, shift_);
        while (merges_[slot].id >= 0 && merges_[slot].pair != pair) slot = (slot + 1) & mask;
        merges_[slot] = {pair, static_cast<uint32_t>(rank), id};  // of equal merges the last counts
    }
    add_prefix_space_ = settings.add_prefix_space;
    return EB_OK;
}

const ByteBpe::Merge *ByteBpe::find_merge(int32_t left, int32_t right) const {
    const uint64_t pair = pair_of(left, right);
    const size_t mask = merges_.size() - 1;
    for (size_t slot = slot_of(pair, shift_); merges_[slot].id >= 0; slot = (slot + 1) & mask) {
        if (merges_[slot].pair == pair) return &merges_[slot];
    }
    return nullptr;
}

// Offers the merge of the symbol at `position` with the one behind it, if there is such a merge.
void ByteBpe::add_candidate(uint32_t position, Scratch *scratch) const {
    const Symbol &symbol = scratch->symbols[position];
    if (symbol.next == NONE) return;
    const int32_t right = scratch->symbols[symbol.next].id;
    const Merge *merge = find_merge(symbol.id, right);
    if (merge != nullptr) scratch->heap.push_back({merge->rank, position, symbol.id, right, merge->id});
}

void ByteBpe::add_word(std::string_view word, Scratch *scratch, std::vector<int32_t> *ids) const {
    std::vector<Symbol> &symbols = scratch->symbols;
    std::vector<Candidate> &heap = scratch->heap;
    symbols.clear();
    heap.clear();
    for (const char byte : word) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
        if (id < 0) continue;
        const uint32_t position = static_cast<uint32_t>(symbols.size());
        symbols.push_back({id, position - 1, position + 1});  // the first's previous wraps to NONE
    }
    if (symbols.empty()) return;
    symbols.back().next = NONE;
    for (uint32_t i = 0; i < symbols.size(); i++) add_candidate(i, scratch);

    // Lowest rank first, then leftmost.
    const auto later = [](const Candidate &x, const Candidate &y) {
        return x.rank != y.rank ? x.rank > y.rank : x.position > y.position;
    };
    std::make_heap(heap.begin(), heap.end(), later);
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end(), later);
        const Candidate best = heap.back();
        heap.pop_back();
        Symbol &left = symbols[best.position];
        if (left.next == NONE) continue;
        Symbol &right = symbols[left.next];
        // The symbols may have been merged with others since the candidate was offered.
        if (left.id != best.left || right.id != best.right) continue;
        left.id = best.id;
        left.next = right.next;
        right.id = -1;
        if (left.next != NONE) symbols[left.next].previous = best.position;
        size_t offered = heap.size();
        if (left.previous != NONE) add_candidate(left.previous, scratch);
        add_candidate(best.position, scratch);
        while (offered < heap.size()) {
            offered++;
            std::push_heap(heap.begin(), heap.begin() + static_cast<std::ptrdiff_t>(offered), later);
        }
    }
    for (uint32_t i = 0; i != NONE; i = symbols[i].next) ids->push_back(symbols[i].id);
}

void ByteBpe::encode(std::string_view text, size_t limit, std::vector<int32_t> *ids) const {
    Scratch scratch;
    std::string spaced;
    if (add_prefix_space_ && text[0] != ' ') {
        spaced.reserve(text.size() + 1);
        spaced.push_back(' ');
        spaced += text;
        text = spaced;
    }
    for (size_t at = 0; at < text.size() && ids->size() < limit;) {
        const size_t length = gpt2_word(text, at);
        add_word(text.substr(at, length), &scratch, ids);
        at += length;
    }
}

}  // namespace edgebert
