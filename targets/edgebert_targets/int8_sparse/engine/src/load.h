// From the bytes of a model file (docs/formats.md, "Engine model 1") to a Model.
#pragma once

#include <cstddef>
#include <cstdint>

#include "edgebert.h"
#include "model.h"
#include "tokenizer.h"

namespace edgebert {

// Of a model in memory: weights are read four bytes at a time. An entry of a zip is often no better aligned.
constexpr size_t MODEL_ALIGNMENT = 4;

// Fills `model`, and `tokenizer` where the file has one. `data` must be aligned to MODEL_ALIGNMENT and
// outlive the model, which points into it; the tokenizer settings are copies. Anything may be in `data`: what
// it says is checked, and memory taken is within some 40 times its size. EB_ERROR_FORMAT, EB_ERROR_VERSION,
// EB_ERROR_ARGUMENT (null or misaligned pointers); throws nothing but std::bad_alloc. On failure the outputs
// hold nothing of use. Thread-safe.
eb_status load_model(const uint8_t *data, size_t size, Model *model, TokenizerSettings *tokenizer,
                     bool *has_tokenizer);

}  // namespace edgebert
