// Vectors, tables and linear layers of a model file, checked and unpacked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgebert.h"
#include "gguf.h"
#include "model.h"

namespace edgebert {

// Each fails with EB_ERROR_FORMAT when a tensor is missing, of another type or shape, or holds what it may
// not.

// F32 or F16 [size], finite.
eb_status read_vector(Gguf *gguf, const std::string &name, uint64_t size, std::vector<float> *out);

// `.values` and `.scale`, or `.floats`.
eb_status read_table(Gguf *gguf, const std::string &name, uint32_t rows, uint32_t width, Table *out);

// INT8 [out, in], dense or sparse, with scale and bias. Needs in <= 65536.
eb_status read_linear(Gguf *gguf, const std::string &name, uint32_t out, uint32_t in, Linear *linear);

// The tensor's type and shape as they must be.
eb_status find_tensor(Gguf *gguf, const std::string &name, TensorType type, uint64_t rows, uint64_t columns,
                      const GgufTensor **out);

}  // namespace edgebert
