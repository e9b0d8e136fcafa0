#include "load_tokenizer.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "load_keys.h"

namespace edgebert {

namespace {

constexpr uint32_t MAX_TOKENS = 1u << 24;
constexpr int32_t TEXT = -1, PAIR = -2;
enum AddedFlag : uint32_t {
    SINGLE_WORD = 1,
    STRIP_LEFT = 2,
    STRIP_RIGHT = 4,
    NORMALIZED = 8,
    ALL_FLAGS = 15
};

std::string key(const char *name) { return std::string("edgebert.tokenizer.") + name; }

// Strings that are each ended by a zero byte.
eb_status read_texts(Gguf *gguf, const char *name, uint32_t most, std::vector<std::string> *out) {
    const GgufTensor *tensor = gguf->tensor(name);
    if (tensor == nullptr || tensor->type != TensorType::i8 || tensor->dimensions != 1)
        return fail(EB_ERROR_FORMAT, "tensor '%s' is missing, or not one dimension of I8; convert again",
                    name);
    const char *position = reinterpret_cast<const char *>(tensor->data), *end = position + tensor->bytes;
    if (end[-1] != 0)
        return fail(EB_ERROR_FORMAT, "the last string of tensor '%s' has no end; convert again", name);
    size_t count = static_cast<size_t>(std::count(position, end, '\0'));
    if (count > most)
        return fail(EB_ERROR_FORMAT, "tensor '%s' holds %zu strings, more than %u; convert again", name,
                    count, most);
    out->clear();
    out->reserve(count);
    while (position != end) {
        out->emplace_back(position);
        position += out->back().size() + 1;
    }
    return EB_OK;
}

eb_status read_template(Gguf *gguf, const char *name, bool pair, uint32_t vocabulary, uint32_t token_types,
                        std::vector<int32_t> *ids, std::vector<int32_t> *types) {
    if (eb_status status = read_i32s(gguf, key(name), ids)) return status;
    if (eb_status status = read_i32s(gguf, key(name) + "_types", types)) return status;
    if (ids->size() != types->size())
        return fail(EB_ERROR_FORMAT, "template '%s' has %zu ids and %zu types; convert again", name,
                    ids->size(), types->size());
    for (int32_t id : *ids)
        if (id < (pair ? PAIR : TEXT) || (id >= 0 && static_cast<uint32_t>(id) >= vocabulary))
            return fail(EB_ERROR_FORMAT,
                        "template '%s' holds %d, outside the vocabulary of %u; convert again", name, id,
                        vocabulary);
    for (int32_t type : *types)
        if (type < 0 || (token_types != 0 && static_cast<uint32_t>(type) >= token_types))
            return fail(EB_ERROR_FORMAT, "template '%s' has token type %d, the model %u types; convert again",
                        name, type, token_types);
    return EB_OK;
}

eb_status read_added(Gguf *gguf, uint32_t vocabulary, std::vector<AddedToken> *out) {
    out->clear();
    if (!gguf->has_value(key("added.content"))) return EB_OK;
    std::vector<std::string> content;
    std::vector<int32_t> ids;
    std::vector<uint32_t> flags;
    if (eb_status status = read_strings(gguf, key("added.content"), &content)) return status;
    if (eb_status status = read_i32s(gguf, key("added.ids"), &ids)) return status;
    if (eb_status status = read_u32s(gguf, key("added.flags"), &flags)) return status;
    if (ids.size() != content.size() || flags.size() != content.size())
        return fail(EB_ERROR_FORMAT, "%zu added tokens, %zu ids and %zu flags; convert again", content.size(),
                    ids.size(), flags.size());
    for (size_t i = 0; i < content.size(); ++i) {
        if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= vocabulary || flags[i] > ALL_FLAGS)
            return fail(EB_ERROR_FORMAT, "added token %zu has id %d and flags %u; convert again", i, ids[i],
                        flags[i]);
        out->push_back({content[i], ids[i], (flags[i] & SINGLE_WORD) != 0, (flags[i] & STRIP_LEFT) != 0,
                        (flags[i] & STRIP_RIGHT) != 0, (flags[i] & NORMALIZED) != 0});
    }
    return EB_OK;
}

}  // namespace

eb_status read_tokenizer(Gguf *gguf, uint32_t vocabulary, uint32_t token_types, TokenizerSettings *settings,
                         bool *present) {
    *present = gguf->has_value(key("kind"));
    if (!*present) return EB_OK;
    static const char *const KINDS[] = {"wordpiece", "byte-bpe"};
    uint32_t kind = 0;
    if (eb_status status = read_choice(gguf, key("kind"), KINDS, 2, &kind)) return status;
    settings->kind = static_cast<TokenizerSettings::Kind>(kind);
    const struct {
        const char *name;
        bool *out;
    } switches[] = {{"clean_text", &settings->clean_text},
                    {"chinese_characters", &settings->chinese_characters},
                    {"strip_accents", &settings->strip_accents},
                    {"lowercase", &settings->lowercase},
                    {"add_prefix_space", &settings->add_prefix_space}};
    for (const auto &one : switches)
        if (eb_status status = read_bool(gguf, key(one.name), one.out)) return status;
    if (eb_status status = read_string(gguf, key("unknown"), &settings->unknown)) return status;
    if (eb_status status = read_string(gguf, key("prefix"), &settings->prefix)) return status;
    if (eb_status status =
            read_u32(gguf, key("max_word_characters"), 0, UINT32_MAX, &settings->max_word_characters))
        return status;
    if (eb_status status = read_template(gguf, "single", false, vocabulary, token_types, &settings->single,
                                         &settings->single_types))
        return status;
    if (eb_status status = read_template(gguf, "pair", true, vocabulary, token_types, &settings->pair,
                                         &settings->pair_types))
        return status;
    if (eb_status status = read_added(gguf, vocabulary, &settings->added)) return status;
    if (eb_status status = read_texts(gguf, "tokenizer.tokens", vocabulary, &settings->tokens)) return status;
    settings->merges.clear();
    bool may_merge = settings->kind == TokenizerSettings::Kind::byte_bpe;
    if (may_merge && gguf->has_tensor("tokenizer.merges"))
        return read_texts(gguf, "tokenizer.merges", MAX_TOKENS, &settings->merges);
    return EB_OK;
}

}  // namespace edgebert
