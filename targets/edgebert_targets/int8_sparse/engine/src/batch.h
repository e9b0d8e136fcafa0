// Checks of what a caller asks a model to run, made before anything else reads it.
#pragma once

#include <cstddef>

#include "model.h"

namespace edgebert {

// Tokens that one call may take: keeps every product of sizes far from overflow.
constexpr size_t MAX_TOKENS = size_t{1} << 24;

// Floats of output for each sequence, or for each token where the task answers tokens.
uint32_t outputs(const Model &model);
bool answers_tokens(const Model &model);

// Checks the pointers and lengths of `batch` and counts what it asks for. EB_ERROR_ARGUMENT, EB_ERROR_INPUT.
eb_status measure_batch(const Model &model, const eb_batch *batch, size_t *tokens, size_t *floats);

// Checks all ids and token types of a measured batch. EB_ERROR_INPUT.
eb_status check_ids(const Model &model, const eb_batch &batch, size_t tokens);

}  // namespace edgebert
