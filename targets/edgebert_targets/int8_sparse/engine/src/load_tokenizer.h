// The tokenizer's settings and vocabulary from a model file.
#pragma once

#include <cstdint>

#include "edgebert.h"
#include "gguf.h"
#include "tokenizer.h"

namespace edgebert {

// Fills `settings` when the file has a tokenizer; *present says so. Ids are below `vocabulary`, token types
// below `token_types` unless that is 0. EB_ERROR_FORMAT.
eb_status read_tokenizer(Gguf *gguf, uint32_t vocabulary, uint32_t token_types, TokenizerSettings *settings,
                         bool *present);

}  // namespace edgebert
