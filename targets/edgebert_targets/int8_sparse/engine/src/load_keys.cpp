#include "load_keys.h"

#include <cstring>

#include "error.h"

namespace edgebert {

namespace {

eb_status find(Gguf *gguf, std::string_view key, GgufType type, GgufType element, const GgufValue **out) {
    *out = gguf->value(key);
    int width = static_cast<int>(key.size());
    if (*out == nullptr)
        return fail(EB_ERROR_FORMAT, "no key '%.*s'; convert the model again", width, key.data());
    if ((*out)->type != type || (*out)->element != element)
        return fail(EB_ERROR_FORMAT, "key '%.*s' has type %u of %u, not %u of %u; convert the model again",
                    width, key.data(), static_cast<unsigned>((*out)->type),
                    static_cast<unsigned>((*out)->element), static_cast<unsigned>(type),
                    static_cast<unsigned>(element));
    return EB_OK;
}

// `out` has the size of the key's type.
template <typename T>
eb_status read_scalar(Gguf *gguf, std::string_view key, GgufType type, T *out) {
    const GgufValue *value = nullptr;
    if (eb_status status = find(gguf, key, type, type, &value)) return status;
    std::memcpy(out, value->data, sizeof(T));
    return EB_OK;
}

template <typename T>
eb_status read_list(Gguf *gguf, std::string_view key, GgufType element, std::vector<T> *out) {
    const GgufValue *value = nullptr;
    if (eb_status status = find(gguf, key, GgufType::array, element, &value)) return status;
    out->resize(static_cast<size_t>(value->count));
    if (value->count != 0) std::memcpy(out->data(), value->data, out->size() * sizeof(T));
    return EB_OK;
}

}  // namespace

eb_status read_u32(Gguf *gguf, std::string_view key, uint32_t low, uint32_t high, uint32_t *out) {
    if (eb_status status = read_scalar(gguf, key, GgufType::u32, out)) return status;
    if (*out < low || *out > high)
        return fail(EB_ERROR_FORMAT, "key '%.*s' is %u, outside [%u, %u]; convert the model again",
                    static_cast<int>(key.size()), key.data(), *out, low, high);
    return EB_OK;
}

eb_status read_f32(Gguf *gguf, std::string_view key, float *out) {
    return read_scalar(gguf, key, GgufType::f32, out);
}

eb_status read_bool(Gguf *gguf, std::string_view key, bool *out) {
    uint8_t byte = 0;
    if (eb_status status = read_scalar(gguf, key, GgufType::boolean, &byte)) return status;
    *out = byte != 0;
    return EB_OK;
}

eb_status read_string(Gguf *gguf, std::string_view key, std::string *out) {
    const GgufValue *value = nullptr;
    if (eb_status status = find(gguf, key, GgufType::string, GgufType::string, &value)) return status;
    const uint8_t *position = value->data;
    std::string_view text;
    next_string(&position, value->end, &text);
    out->assign(text);
    return EB_OK;
}

eb_status read_strings(Gguf *gguf, std::string_view key, std::vector<std::string> *out) {
    const GgufValue *value = nullptr;
    if (eb_status status = find(gguf, key, GgufType::array, GgufType::string, &value)) return status;
    const uint8_t *position = value->data;
    std::string_view text;
    out->clear();
    while (next_string(&position, value->end, &text)) out->emplace_back(text);
    return EB_OK;
}

eb_status read_i32s(Gguf *gguf, std::string_view key, std::vector<int32_t> *out) {
    return read_list(gguf, key, GgufType::i32, out);
}

eb_status read_u32s(Gguf *gguf, std::string_view key, std::vector<uint32_t> *out) {
    return read_list(gguf, key, GgufType::u32, out);
}

eb_status read_choice(Gguf *gguf, std::string_view key, const char *const *names, uint32_t count,
                      uint32_t *out) {
    std::string text;
    if (eb_status status = read_string(gguf, key, &text)) return status;
    for (uint32_t i = 0; i < count; ++i)
        if (text == names[i]) {
            *out = i;
            return EB_OK;
        }
    return fail(EB_ERROR_FORMAT, "key '%.*s' is '%.40s', which this library does not know; update it",
                static_cast<int>(key.size()), key.data(), text.c_str());
}

}  // namespace edgebert
