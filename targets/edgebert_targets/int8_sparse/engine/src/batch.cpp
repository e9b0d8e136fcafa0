#include "batch.h"

#include "error.h"

namespace edgebert {

uint32_t outputs(const Model &model) {
    switch (model.task) {
        case EB_TASK_EMBEDDING:
            return model.hidden;
        case EB_TASK_QUESTION_ANSWERING:
            return 2;
        default:
            return model.head_out.out;
    }
}

bool answers_tokens(const Model &model) {
    return model.task == EB_TASK_TOKEN_CLASSIFICATION || model.task == EB_TASK_QUESTION_ANSWERING;
}

eb_status measure_batch(const Model &model, const eb_batch *batch, size_t *tokens, size_t *floats) {
    if (batch == nullptr) return fail(EB_ERROR_ARGUMENT, "batch is null; pass an eb_batch");
    if (batch->ids == nullptr || batch->lengths == nullptr) {
        return fail(EB_ERROR_ARGUMENT, "batch->%s is null; only token_types may be",
                    batch->ids == nullptr ? "ids" : "lengths");
    }
    if (batch->sequences == 0)
        return fail(EB_ERROR_ARGUMENT, "the batch has no sequences; give at least one");
    size_t sum = 0;
    for (size_t i = 0; i < batch->sequences; ++i) {
        int32_t length = batch->lengths[i];
        if (length < 1 || static_cast<uint32_t>(length) > model.max_length) {
            return fail(EB_ERROR_INPUT, "sequence %zu has length %d; the model takes 1 to %u tokens", i,
                        length, model.max_length);
        }
        sum += static_cast<size_t>(length);
        if (sum > MAX_TOKENS) {
            return fail(EB_ERROR_ARGUMENT, "the batch has more than %zu tokens; split it", MAX_TOKENS);
        }
    }
    *tokens = sum;
    *floats = (answers_tokens(model) ? sum : batch->sequences) * outputs(model);
    return EB_OK;
}

eb_status check_ids(const Model &model, const eb_batch &batch, size_t tokens) {
    // A model without token types takes zeros.
    uint32_t types = model.token_type.rows == 0 ? 1 : model.token_type.rows;
    for (size_t i = 0; i < tokens; ++i) {
        // Negative numbers become large ones.
        if (static_cast<uint32_t>(batch.ids[i]) >= model.vocabulary) {
            return fail(EB_ERROR_INPUT,
                        "id %d of token %zu is outside [0, %u]; use the model's own tokenizer", batch.ids[i],
                        i, model.vocabulary - 1);
        }
        if (batch.token_types != nullptr && static_cast<uint32_t>(batch.token_types[i]) >= types) {
            return fail(EB_ERROR_INPUT, "token type %d of token %zu is outside [0, %u]", batch.token_types[i],
                        i, types - 1);
        }
    }
    return EB_OK;
}

}  // namespace edgebert
