#include "gguf.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace edgebert {

namespace {

constexpr uint32_t GGUF_VERSION = 3;
constexpr uint64_t MAX_KEYS = 4096;
constexpr uint64_t MAX_TENSORS = 65536;
constexpr uint64_t MAX_LIST = 65536;
constexpr uint64_t MAX_NAME = 64;  // GGUF's own limit on tensor names; ours for keys too

// Bytes of a value of fixed size; 0 for strings, arrays and unknown types.
uint64_t value_size(GgufType type) {
    switch (type) {
        case GgufType::u8:
        case GgufType::i8:
        case GgufType::boolean:
            return 1;
        case GgufType::u16:
        case GgufType::i16:
            return 2;
        case GgufType::u32:
        case GgufType::i32:
        case GgufType::f32:
            return 4;
        case GgufType::u64:
        case GgufType::i64:
        case GgufType::f64:
            return 8;
        default:
            return 0;
    }
}

// Bytes of a tensor's element; 0 for types that an engine model does not have.
uint64_t element_size(TensorType type) {
    switch (type) {
        case TensorType::f32:
            return 4;
        case TensorType::f16:
            return 2;
        case TensorType::i8:
            return 1;
    }
    return 0;
}

uint64_t align(uint64_t offset) { return (offset + GGUF_ALIGNMENT - 1) & ~(GGUF_ALIGNMENT - 1); }

int width(std::string_view text) { return static_cast<int>(text.size()); }

}  // namespace

// Reads forward and never past `end`.
struct Gguf::Cursor {
    const uint8_t *position;
    const uint8_t *end;

    uint64_t left() const { return static_cast<uint64_t>(end - position); }

    bool skip(uint64_t bytes) {
        if (bytes > left()) return false;
        position += bytes;
        return true;
    }

    template <typename T>
    bool read(T *out) {
        if (left() < sizeof(T)) return false;
        std::memcpy(out, position, sizeof(T));
        position += sizeof(T);
        return true;
    }

    bool read_string(std::string_view *out) {
        uint64_t size = 0;
        if (!read(&size) || size > left()) return false;
        *out = std::string_view(reinterpret_cast<const char *>(position), static_cast<size_t>(size));
        position += size;
        return true;
    }

    bool read_name(std::string_view *out) {
        return read_string(out) && out->size() <= MAX_NAME && !out->empty();
    }

    bool skip_value(GgufType type) {
        std::string_view text;
        if (type == GgufType::string) return read_string(&text);
        if (type == GgufType::boolean && left() >= 1 && *position > 1) return false;
        uint64_t size = value_size(type);
        return size != 0 && skip(size);
    }
};

eb_status Gguf::parse(const uint8_t *data, size_t size) {
    values_.clear();
    tensors_.clear();
    offsets_.clear();
    Cursor cursor{data, data + size};
    uint8_t magic[4];
    uint32_t version = 0;
    uint64_t tensors = 0, keys = 0;
    if (!cursor.read(&magic) || std::memcmp(magic, "GGUF", 4) != 0)
        return fail(EB_ERROR_FORMAT, "not a GGUF file of %zu bytes; give a model.gguf made by EdgeBERT",
                    size);
    if (!cursor.read(&version) || !cursor.read(&tensors) || !cursor.read(&keys))
        return fail(EB_ERROR_FORMAT, "the file ends inside its header, at %zu bytes; copy it again", size);
    if (version != GGUF_VERSION)
        return fail(EB_ERROR_VERSION, "GGUF version %u, this library reads %u; convert the model again",
                    version, GGUF_VERSION);
    if (keys > MAX_KEYS || tensors > MAX_TENSORS)
        return fail(EB_ERROR_FORMAT, "%llu keys and %llu tensors, at most %llu and %llu; convert again",
                    static_cast<unsigned long long>(keys), static_cast<unsigned long long>(tensors),
                    static_cast<unsigned long long>(MAX_KEYS), static_cast<unsigned long long>(MAX_TENSORS));
    for (uint64_t i = 0; i < keys; ++i)
        if (eb_status status = parse_value(&cursor)) return status;
    for (uint64_t i = 0; i < tensors; ++i)
        if (eb_status status = parse_tensor(&cursor)) return status;
    if (eb_status status = place_tensors(data, size, static_cast<uint64_t>(cursor.position - data)))
        return status;

    std::sort(values_.begin(), values_.end(),
              [](const GgufValue &a, const GgufValue &b) { return a.key < b.key; });
    std::sort(tensors_.begin(), tensors_.end(),
              [](const GgufTensor &a, const GgufTensor &b) { return a.name < b.name; });
    for (size_t i = 1; i < values_.size(); ++i)
        if (values_[i].key == values_[i - 1].key)
            return fail(EB_ERROR_FORMAT, "key '%.*s' is there twice; convert the model again",
                        width(values_[i].key), values_[i].key.data());
    for (size_t i = 1; i < tensors_.size(); ++i)
        if (tensors_[i].name == tensors_[i - 1].name)
            return fail(EB_ERROR_FORMAT, "tensor '%.*s' is there twice; convert the model again",
                        width(tensors_[i].name), tensors_[i].name.data());
    return EB_OK;
}

eb_status Gguf::parse_value(Cursor *cursor) {
    GgufValue value{};
    uint32_t type = 0;
    if (!cursor->read_name(&value.key) || !cursor->read(&type))
        return fail(EB_ERROR_FORMAT, "the name of key %zu does not fit; copy the file again", values_.size());
    value.type = static_cast<GgufType>(type);
    value.element = value.type;
    value.count = 1;
    bool fits = true;
    if (value.type == GgufType::array) {
        uint32_t element = 0;
        fits = cursor->read(&element) && cursor->read(&value.count);
        value.element = static_cast<GgufType>(element);
    }
    if (value.count > MAX_LIST)
        return fail(EB_ERROR_FORMAT, "key '%.*s' lists %llu entries, at most %llu; convert the model again",
                    width(value.key), value.key.data(), static_cast<unsigned long long>(value.count),
                    static_cast<unsigned long long>(MAX_LIST));
    value.data = cursor->position;
    for (uint64_t i = 0; fits && i < value.count; ++i) fits = cursor->skip_value(value.element);
    if (!fits)
        return fail(EB_ERROR_FORMAT, "key '%.*s' of type %u does not fit in the file; copy it again",
                    width(value.key), value.key.data(), type);
    value.end = cursor->position;
    values_.push_back(value);
    return EB_OK;
}

eb_status Gguf::parse_tensor(Cursor *cursor) {
    GgufTensor tensor{};
    uint32_t type = 0;
    uint64_t offset = 0;
    if (!cursor->read_name(&tensor.name) || !cursor->read(&tensor.dimensions))
        return fail(EB_ERROR_FORMAT, "the name of tensor %zu does not fit; copy the file again",
                    tensors_.size());
    if (tensor.dimensions < 1 || tensor.dimensions > 4)
        return fail(EB_ERROR_FORMAT, "tensor '%.*s' has %u dimensions, not 1 to 4; convert the model again",
                    width(tensor.name), tensor.name.data(), tensor.dimensions);
    bool fits = true;
    for (uint32_t i = tensor.dimensions; i-- > 0;) fits = fits && cursor->read(&tensor.shape[i]);
    if (!fits || !cursor->read(&type) || !cursor->read(&offset))
        return fail(EB_ERROR_FORMAT, "the file ends inside tensor '%.*s'; copy it again", width(tensor.name),
                    tensor.name.data());
    tensor.type = static_cast<TensorType>(type);
    tensor.bytes = element_size(tensor.type);
    if (tensor.bytes == 0)
        return fail(EB_ERROR_FORMAT, "tensor '%.*s' has type %u, not F32, F16 or I8; convert the model again",
                    width(tensor.name), tensor.name.data(), type);
    for (uint32_t i = 0; i < tensor.dimensions; ++i)
        if (tensor.shape[i] == 0 || __builtin_mul_overflow(tensor.bytes, tensor.shape[i], &tensor.bytes))
            return fail(EB_ERROR_FORMAT, "tensor '%.*s' is empty or too large; convert the model again",
                        width(tensor.name), tensor.name.data());
    tensors_.push_back(tensor);
    offsets_.push_back(offset);
    return EB_OK;
}

// Tensors follow one another without a hole, so none can overlap and no bytes are unaccounted for.
eb_status Gguf::place_tensors(const uint8_t *data, size_t size, uint64_t begin) {
    uint64_t position = align(begin);
    for (size_t i = 0; i < tensors_.size(); ++i) {
        GgufTensor &tensor = tensors_[i];
        if (position > size || tensor.bytes > size - position)
            return fail(EB_ERROR_FORMAT, "tensor '%.*s' ends beyond the file's %zu bytes; copy it again",
                        width(tensor.name), tensor.name.data(), size);
        if (offsets_[i] != position - align(begin))
            return fail(EB_ERROR_FORMAT, "tensor '%.*s' is at offset %llu, not %llu; convert the model again",
                        width(tensor.name), tensor.name.data(), static_cast<unsigned long long>(offsets_[i]),
                        static_cast<unsigned long long>(position - align(begin)));
        tensor.data = data + position;
        position = align(position + tensor.bytes);
    }
    if (position != size)
        return fail(EB_ERROR_FORMAT, "the file has %zu bytes, its contents %llu; copy it again", size,
                    static_cast<unsigned long long>(position));
    return EB_OK;
}

bool Gguf::has_value(std::string_view key) const {
    auto found = std::lower_bound(values_.begin(), values_.end(), key,
                                  [](const GgufValue &a, std::string_view b) { return a.key < b; });
    return found != values_.end() && found->key == key;
}

bool Gguf::has_tensor(std::string_view name) const {
    auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                  [](const GgufTensor &a, std::string_view b) { return a.name < b; });
    return found != tensors_.end() && found->name == name;
}

const GgufValue *Gguf::value(std::string_view key) {
    auto found = std::lower_bound(values_.begin(), values_.end(), key,
                                  [](const GgufValue &a, std::string_view b) { return a.key < b; });
    if (found == values_.end() || found->key != key) return nullptr;
    found->used = true;
    return &*found;
}

const GgufTensor *Gguf::tensor(std::string_view name) {
    auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                  [](const GgufTensor &a, std::string_view b) { return a.name < b; });
    if (found == tensors_.end() || found->name != name) return nullptr;
    found->used = true;
    return &*found;
}

eb_status Gguf::check_all_used(std::string_view prefix) const {
    for (const GgufTensor &tensor : tensors_)
        if (!tensor.used)
            return fail(EB_ERROR_FORMAT, "tensor '%.*s' has no place in the model; convert the model again",
                        width(tensor.name), tensor.name.data());
    for (const GgufValue &value : values_)
        if (!value.used && value.key.substr(0, prefix.size()) == prefix)
            return fail(EB_ERROR_FORMAT, "key '%.*s' is unknown to format 1; update the library",
                        width(value.key), value.key.data());
    return EB_OK;
}

bool next_string(const uint8_t **position, const uint8_t *end, std::string_view *out) {
    uint64_t size = 0;
    if (*position == end) return false;
    std::memcpy(&size, *position, sizeof size);  // parse() saw that it fits
    *out = std::string_view(reinterpret_cast<const char *>(*position + sizeof size), size);
    *position += sizeof size + size;
    return true;
}

}  // namespace edgebert
