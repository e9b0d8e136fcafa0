#include "tokenizer.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "byte_bpe.h"
#include "error.h"
#include "tokenizer_added.h"
#include "tokenizer_normalizer.h"
#include "unicode.h"
#include "wordpiece.h"

namespace edgebert {

namespace {

constexpr int32_t TEXT = -1, PAIR = -2;
constexpr size_t MOST_TEXT = size_t{1} << 28;  // bytes; with what normalizing adds, 32-bit positions hold

// What stands around the text or the pair, as ids and token types.
struct Template {
    std::vector<int32_t> ids, types;
    size_t special = 0;
};

eb_status check_template(const char *name, const Template &given, bool pair, size_t ids) {
    if (given.ids.size() != given.types.size()) {
        return fail(EB_ERROR_FORMAT, "template '%s' has %zu ids and %zu token types", name, given.ids.size(),
                    given.types.size());
    }
    for (size_t i = 0; i < given.ids.size(); i++) {
        const int32_t id = given.ids[i];
        const bool is_known = id >= 0 ? static_cast<size_t>(id) < ids : id == TEXT || id == PAIR;
        if (!is_known || given.types[i] < 0) {
            return fail(EB_ERROR_FORMAT, "template '%s' has id %d of token type %d; there are %zu ids", name,
                        id, given.types[i], ids);
        }
    }
    const auto texts = std::count(given.ids.begin(), given.ids.end(), TEXT);
    const auto pairs = std::count(given.ids.begin(), given.ids.end(), PAIR);
    if (texts != 1 || pairs != (pair ? 1 : 0)) {
        return fail(EB_ERROR_FORMAT, "template '%s' has the text %td times and the pair %td times", name,
                    texts, pairs);
    }
    return EB_OK;
}

// Ids of text and pair that remain when `room` is all there is, the longer losing first.
void cut_longest_first(size_t room, size_t *text, size_t *pair) {
    if (*text + *pair <= room) return;
    size_t *shorter = *text > *pair ? pair : text, *longer = *text > *pair ? text : pair;
    if (*shorter > room / 2) {
        *shorter = room / 2;
    }
    *longer = room - *shorter;
}

}  // namespace

struct Tokenizer::State {
    TokenizerSettings::Kind kind;
    BertNormalizer normalizer;
    AddedTokens added, added_normalized;
    WordPiece wordpiece;
    ByteBpe byte_bpe;
    Template single, pair;

    eb_status set_added(std::vector<AddedToken> tokens, size_t ids);
    void encode_text(std::string_view text, size_t limit, std::vector<int32_t> *ids) const;
};

eb_status Tokenizer::State::set_added(std::vector<AddedToken> tokens, size_t ids) {
    std::vector<AddedToken> plain, normalized;
    for (AddedToken &token : tokens) {
        if (token.id < 0 || static_cast<size_t>(token.id) >= ids) {
            return fail(EB_ERROR_FORMAT, "added token '%.64s' has id %d; there are %zu ids",
                        token.content.c_str(), token.id, ids);
        }
        std::string repaired;
        if (valid_utf8(token.content, &repaired) != token.content) {
            return fail(EB_ERROR_FORMAT, "added token %d is not valid UTF-8", token.id);
        }
        if (!token.normalized) {
            plain.push_back(std::move(token));
            continue;
        }
        AddedToken one = token;
        normalizer.normalize(token.content, &one.content);
        normalized.push_back(std::move(one));
    }
    if (const eb_status status = added.set(std::move(plain)); status != EB_OK) return status;
    return added_normalized.set(std::move(normalized));
}

void Tokenizer::State::encode_text(std::string_view text, size_t limit, std::vector<int32_t> *ids) const {
    std::string repaired, normalized;
    std::vector<Piece> pieces, inner;
    text = valid_utf8(text, &repaired);
    added.split(text, &pieces);
    for (const Piece &piece : pieces) {
        if (piece.id >= 0) {
            ids->push_back(piece.id);
            continue;
        }
        std::string_view words = text.substr(piece.begin, piece.end - piece.begin);
        if (!normalizer.is_identity()) {
            normalizer.normalize(words, &normalized);
            words = normalized;
        }
        added_normalized.split(words, &inner);
        for (const Piece &part : inner) {
            if (ids->size() >= limit) return;
            const std::string_view between = words.substr(part.begin, part.end - part.begin);
            if (part.id >= 0) {
                ids->push_back(part.id);
            } else if (kind == TokenizerSettings::Kind::wordpiece) {
                wordpiece.encode(between, limit, ids);
            } else {
                byte_bpe.encode(between, limit, ids);
            }
        }
    }
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}

Tokenizer::~Tokenizer() = default;

eb_status Tokenizer::create(TokenizerSettings settings, std::unique_ptr<Tokenizer> *out) {
    if (settings.tokens.size() > static_cast<size_t>(INT32_MAX)) {
        return fail(EB_ERROR_FORMAT, "%zu tokens; ids are 32-bit numbers", settings.tokens.size());
    }
    if (settings.kind != TokenizerSettings::Kind::wordpiece &&
        settings.kind != TokenizerSettings::Kind::byte_bpe) {
        return fail(EB_ERROR_FORMAT, "tokenizer kind %u is not known", static_cast<uint32_t>(settings.kind));
    }
    auto state = std::make_unique<State>();
    state->kind = settings.kind;
    state->normalizer = BertNormalizer(settings.clean_text, settings.chinese_characters,
                                       settings.strip_accents, settings.lowercase);
    const bool is_wordpiece = settings.kind == TokenizerSettings::Kind::wordpiece;
    eb_status status = is_wordpiece ? state->wordpiece.set(settings) : state->byte_bpe.set(settings);
    if (status != EB_OK) return status;

    size_t ids = settings.tokens.size();
    for (const AddedToken &token : settings.added) {
        if (token.id >= 0) ids = std::max(ids, static_cast<size_t>(token.id) + 1);
    }
    if ((status = state->set_added(std::move(settings.added), ids)) != EB_OK) return status;
    state->single = {std::move(settings.single), std::move(settings.single_types), 0};
    state->pair = {std::move(settings.pair), std::move(settings.pair_types), 0};
    if ((status = check_template("single", state->single, false, ids)) != EB_OK) return status;
    if ((status = check_template("pair", state->pair, true, ids)) != EB_OK) return status;
    state->single.special = state->single.ids.size() - 1;
    state->pair.special = state->pair.ids.size() - 2;
    out->reset(new Tokenizer(std::move(state)));
    return EB_OK;
}

eb_status Tokenizer::encode(const char *text, size_t text_size, const char *pair, size_t pair_size,
                            size_t max_length, std::vector<int32_t> *ids, std::vector<int32_t> *types) const {
    if (text_size > MOST_TEXT || (pair != nullptr && pair_size > MOST_TEXT)) {
        return fail(EB_ERROR_INPUT, "a text of %zu bytes; at most %zu are allowed",
                    std::max(text_size, pair_size), MOST_TEXT);
    }
    const Template &form = pair == nullptr ? state_->single : state_->pair;
    if (form.special > max_length) {
        return fail(EB_ERROR_INPUT, "max_length is %zu; the special tokens alone are %zu", max_length,
                    form.special);
    }
    const size_t room = max_length - form.special;
    std::vector<int32_t> text_ids, pair_ids;
    // A pair's share depends on how long both are, so only a single text may stop early.
    state_->encode_text({text, text_size}, pair == nullptr ? room : SIZE_MAX, &text_ids);
    if (pair != nullptr) state_->encode_text({pair, pair_size}, SIZE_MAX, &pair_ids);
    size_t text_count = text_ids.size(), pair_count = pair_ids.size();
    if (pair == nullptr) {
        text_count = std::min(text_count, room);
    } else {
        cut_longest_first(room, &text_count, &pair_count);
    }
    ids->clear();
    types->clear();
    for (size_t i = 0; i < form.ids.size(); i++) {
        const int32_t id = form.ids[i];
        if (id >= 0) {
            ids->push_back(id);
            types->push_back(form.types[i]);
            continue;
        }
        const std::vector<int32_t> &from = id == TEXT ? text_ids : pair_ids;
        const size_t count = id == TEXT ? text_count : pair_count;
        ids->insert(ids->end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
        types->insert(types->end(), count, form.types[i]);
    }
    return EB_OK;
}

}  // namespace edgebert
