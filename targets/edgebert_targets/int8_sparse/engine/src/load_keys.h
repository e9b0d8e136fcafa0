// Keys of a model file by name, with the type and the range they must have.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgebert.h"
#include "gguf.h"

namespace edgebert {

// Each fails with EB_ERROR_FORMAT when the key is missing, of another type, or out of range.
eb_status read_u32(Gguf *gguf, std::string_view key, uint32_t low, uint32_t high, uint32_t *out);
eb_status read_f32(Gguf *gguf, std::string_view key, float *out);
eb_status read_bool(Gguf *gguf, std::string_view key, bool *out);
eb_status read_string(Gguf *gguf, std::string_view key, std::string *out);
eb_status read_strings(Gguf *gguf, std::string_view key, std::vector<std::string> *out);
eb_status read_i32s(Gguf *gguf, std::string_view key, std::vector<int32_t> *out);
eb_status read_u32s(Gguf *gguf, std::string_view key, std::vector<uint32_t> *out);

// Index in `names` of the string at `key`.
eb_status read_choice(Gguf *gguf, std::string_view key, const char *const *names, uint32_t count,
                      uint32_t *out);

}  // namespace edgebert
