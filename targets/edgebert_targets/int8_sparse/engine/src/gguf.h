// A GGUF container seen in memory: keys and tensors as views, every one inside the bytes that were given.
//
// The layout rules are those of docs/formats.md, "Engine model 1". Values are read without regard to their
// meaning; load.cpp knows that. Little-endian hosts only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "edgebert.h"

namespace edgebert {

constexpr uint64_t GGUF_ALIGNMENT = 64;

enum class GgufType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12
};

enum class TensorType : uint32_t { f32 = 0, f16 = 1, i8 = 24 };

// `data` begins at the value; of an array, at its first element, of which there are `count`.
struct GgufValue {
    std::string_view key;
    GgufType type;     // of an array: `array`
    GgufType element;  // of an array: its elements' type
    uint64_t count;
    const uint8_t *data;
    const uint8_t *end;  // one past the value
    bool used;
};

// `shape` in C order, the last index running fastest; unused dimensions in front are absent.
struct GgufTensor {
    std::string_view name;
    TensorType type;
    uint32_t dimensions;
    uint64_t shape[4];
    const uint8_t *data;  // 64-byte aligned where the file is
    uint64_t bytes;
    bool used;
};

class Gguf {
  public:
    // Checks the whole container. Views stay valid as long as `data`. EB_ERROR_FORMAT, EB_ERROR_VERSION.
    eb_status parse(const uint8_t *data, size_t size);

    // Marks what it finds as used. Null when there is none.
    const GgufValue *value(std::string_view key);
    const GgufTensor *tensor(std::string_view name);

    bool has_tensor(std::string_view name) const;
    bool has_value(std::string_view key) const;

    // EB_ERROR_FORMAT when a tensor, or a key that begins with `prefix`, was never asked for.
    eb_status check_all_used(std::string_view prefix) const;

  private:
    struct Cursor;
    eb_status parse_value(Cursor *cursor);
    eb_status parse_tensor(Cursor *cursor);
    eb_status place_tensors(const uint8_t *data, size_t size, uint64_t begin);

    std::vector<GgufValue> values_;    // sorted by key
    std::vector<GgufTensor> tensors_;  // sorted by name
    std::vector<uint64_t> offsets_;    // of the tensors in the order of the file
};

// Strings of an array of strings, or the one of a string, in order; false after the last.
bool next_string(const uint8_t **position, const uint8_t *end, std::string_view *out);

}  // namespace edgebert
