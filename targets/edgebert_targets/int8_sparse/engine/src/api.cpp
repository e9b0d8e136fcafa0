// The C ABI of include/edgebert.h: checks arguments, catches exceptions, counts references.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "batch.h"
#include "cpu.h"
#include "edgebert.h"
#include "error.h"
#include "forward.h"
#include "guard.h"
#include "load.h"
#include "mapping.h"
#include "model.h"
#include "tokenizer.h"

using edgebert::fail;
using edgebert::guarded;

// Lives until it and all its sessions are closed, whatever the order.
struct eb_model {
    std::atomic<long> users{1};
    edgebert::Mapping file;
    edgebert::Model model;
    std::unique_ptr<edgebert::Tokenizer> tokenizer;  // null: the file has none
};

struct eb_session {
    eb_model *owner = nullptr;
    std::unique_ptr<edgebert::Forward> forward;
    std::vector<int32_t> ids, types;  // of eb_run_text

    ~eb_session() {
        forward.reset();  // its threads read the model
        eb_model_close(owner);
    }
};

namespace {

constexpr int32_t MAX_THREADS = 1024;

// Larger batches run in parts of about so many tokens: a session's memory stays flat.
constexpr size_t PART_TOKENS = 4096;

eb_status null_argument(const char *name) { return fail(EB_ERROR_ARGUMENT, "%s is null", name); }

// Reads the model in `size` bytes at `data` into *model.
eb_status read_model(const uint8_t *data, size_t size, eb_model *model) {
    edgebert::TokenizerSettings settings;
    bool has_tokenizer = false;
    eb_status status = edgebert::load_model(data, size, &model->model, &settings, &has_tokenizer);
    if (status != EB_OK || !has_tokenizer) return status;
    return edgebert::Tokenizer::create(std::move(settings), &model->tokenizer);
}

eb_status tokenize(const eb_model *model, const char *text, size_t text_size, const char *pair,
                   size_t pair_size, int32_t max_length, std::vector<int32_t> *ids,
                   std::vector<int32_t> *types) {
    if (text == nullptr) return null_argument("text");
    if (max_length < 0) return fail(EB_ERROR_ARGUMENT, "max_length is %d; give 0 or more", max_length);
    if (!model->tokenizer) {
        return fail(EB_ERROR_ARGUMENT, "the model file has no tokenizer; pass ids to eb_run");
    }
    size_t limit = max_length == 0 ? model->model.max_length : static_cast<size_t>(max_length);
    return model->tokenizer->encode(text, text_size, pair, pair_size, limit, ids, types);
}

// Runs a checked batch.
eb_status run_parts(eb_session *session, const eb_batch &batch, float *out) {
    const edgebert::Model &model = session->owner->model;
    size_t sequence = 0, token = 0, row = 0;
    while (sequence < batch.sequences) {
        eb_batch part = batch;
        part.ids += token;
        if (part.token_types != nullptr) part.token_types += token;
        part.lengths += sequence;
        part.sequences = 0;
        size_t tokens = 0;
        do {
            tokens += static_cast<size_t>(part.lengths[part.sequences++]);
        } while (sequence + part.sequences < batch.sequences && tokens < PART_TOKENS);
        eb_status status = session->forward->run(part, out + row * edgebert::outputs(model));
        if (status != EB_OK) return status;
        sequence += part.sequences;
        token += tokens;
        row += edgebert::answers_tokens(model) ? tokens : part.sequences;
    }
    return EB_OK;
}

eb_status run(eb_session *session, const eb_batch *batch, float *out, size_t capacity) {
    const edgebert::Model &model = session->owner->model;
    size_t tokens = 0, floats = 0;
    eb_status status = edgebert::measure_batch(model, batch, &tokens, &floats);
    if (status != EB_OK) return status;
    if (out == nullptr) return null_argument("out");
    if (capacity < floats) {
        return fail(EB_ERROR_SPACE, "out has room for %zu floats, the answer has %zu", capacity, floats);
    }
    status = edgebert::check_ids(model, *batch, tokens);
    return status == EB_OK ? run_parts(session, *batch, out) : status;
}

}  // namespace

extern "C" {

const char *eb_version(void) { return EDGEBERT_VERSION; }

const char *eb_last_error(void) { return edgebert::last_error(); }

const char *eb_isa(void) {
    const edgebert::Kernels *kernels = edgebert::choose_kernels();
    return kernels == nullptr ? nullptr : kernels->name;
}

const char *eb_isa_available(void) { return edgebert::available_kernels(); }

eb_status eb_model_open(const char *path, eb_model **model) {
    if (model == nullptr) return null_argument("model");
    *model = nullptr;
    if (path == nullptr) return null_argument("path");
    return guarded([&] {
        auto opened = std::make_unique<eb_model>();
        eb_status status = opened->file.open(path);
        if (status == EB_OK) status = read_model(opened->file.data(), opened->file.size(), opened.get());
        if (status == EB_OK) *model = opened.release();
        return status;
    });
}

eb_status eb_model_open_memory(const void *data, size_t size, eb_model **model) {
    if (model == nullptr) return null_argument("model");
    *model = nullptr;
    if (data == nullptr) return null_argument("data");
    if (reinterpret_cast<uintptr_t>(data) % edgebert::MODEL_ALIGNMENT != 0) {
        return fail(EB_ERROR_ARGUMENT, "data is not aligned to %zu bytes; use aligned_alloc or a page",
                    edgebert::MODEL_ALIGNMENT);
    }
    return guarded([&] {
        auto opened = std::make_unique<eb_model>();
        eb_status status = read_model(static_cast<const uint8_t *>(data), size, opened.get());
        if (status == EB_OK) *model = opened.release();
        return status;
    });
}

void eb_model_close(eb_model *model) {
    if (model != nullptr && model->users.fetch_sub(1, std::memory_order_acq_rel) == 1) delete model;
}

eb_status eb_model_info(const eb_model *model, eb_info *info) {
    if (model == nullptr) return null_argument("model");
    if (info == nullptr) return null_argument("info");
    const edgebert::Model &from = model->model;
    info->task = from.task;
    info->vocabulary = static_cast<int32_t>(from.vocabulary);
    info->hidden_size = static_cast<int32_t>(from.hidden);
    info->layers = static_cast<int32_t>(from.layers.size());
    info->heads = static_cast<int32_t>(from.heads);
    info->max_length = static_cast<int32_t>(from.max_length);
    info->token_types = static_cast<int32_t>(from.token_type.rows);
    info->outputs = static_cast<int32_t>(edgebert::outputs(from));
    info->labels = static_cast<int32_t>(from.labels.size());
    info->has_tokenizer = model->tokenizer ? 1 : 0;
    return EB_OK;
}

const char *eb_model_label(const eb_model *model, int32_t index) {
    if (model == nullptr || index < 0 || static_cast<size_t>(index) >= model->model.labels.size()) {
        fail(EB_ERROR_ARGUMENT, "label %d is out of range, or the model is null", index);
        return nullptr;
    }
    return model->model.labels[static_cast<size_t>(index)].c_str();
}

eb_status eb_session_create(const eb_model *model, int32_t threads, eb_session **session) {
    if (session == nullptr) return null_argument("session");
    *session = nullptr;
    if (model == nullptr) return null_argument("model");
    if (threads < 1 || threads > MAX_THREADS) {
        return fail(EB_ERROR_ARGUMENT, "threads is %d; give 1 to %d", threads, MAX_THREADS);
    }
    return guarded([&] {
        const edgebert::Kernels *kernels = edgebert::choose_kernels();
        if (kernels == nullptr) return EB_ERROR_CPU;
        auto created = std::make_unique<eb_session>();
        eb_status status = edgebert::Forward::create(model->model, *kernels, threads, &created->forward);
        if (status != EB_OK) return status;
        created->owner = const_cast<eb_model *>(model);  // only its counter changes
        created->owner->users.fetch_add(1, std::memory_order_relaxed);
        *session = created.release();
        return EB_OK;
    });
}

void eb_session_free(eb_session *session) { delete session; }

eb_status eb_output_size(const eb_session *session, const eb_batch *batch, size_t *floats) {
    if (session == nullptr) return null_argument("session");
    if (floats == nullptr) return null_argument("floats");
    size_t tokens = 0;
    return edgebert::measure_batch(session->owner->model, batch, &tokens, floats);
}

eb_status eb_run(eb_session *session, const eb_batch *batch, float *out, size_t capacity) {
    if (session == nullptr) return null_argument("session");
    return guarded([&] { return run(session, batch, out, capacity); });
}

eb_status eb_tokenize(const eb_model *model, const char *text, size_t text_size, const char *pair,
                      size_t pair_size, int32_t max_length, int32_t *ids, int32_t *token_types,
                      size_t capacity, size_t *count) {
    if (count == nullptr) return null_argument("count");
    *count = 0;
    if (model == nullptr) return null_argument("model");
    if (ids == nullptr && capacity != 0) return null_argument("ids");
    return guarded([&] {
        std::vector<int32_t> found, types;
        eb_status status = tokenize(model, text, text_size, pair, pair_size, max_length, &found, &types);
        if (status != EB_OK) return status;
        *count = found.size();
        size_t written = std::min(capacity, found.size());
        std::copy_n(found.begin(), written, ids);
        if (token_types != nullptr) std::copy_n(types.begin(), written, token_types);
        if (written == found.size()) return EB_OK;
        return fail(EB_ERROR_SPACE, "ids has room for %zu tokens, the text has %zu", capacity, found.size());
    });
}

eb_status eb_run_text(eb_session *session, const char *text, size_t text_size, const char *pair,
                      size_t pair_size, float *out, size_t capacity) {
    if (session == nullptr) return null_argument("session");
    return guarded([&] {
        eb_status status =
            tokenize(session->owner, text, text_size, pair, pair_size, 0, &session->ids, &session->types);
        if (status != EB_OK) return status;
        auto length = static_cast<int32_t>(session->ids.size());
        bool typed = session->owner->model.token_type.rows != 0;
        eb_batch batch = {session->ids.data(), typed ? session->types.data() : nullptr, &length, 1};
        return run(session, &batch, out, capacity);
    });
}

void eb_softmax(float *logits, size_t count) {
    if (logits == nullptr || count == 0) return;
    float highest = *std::max_element(logits, logits + count), sum = 0;
    for (size_t i = 0; i < count; ++i) sum += logits[i] = std::exp(logits[i] - highest);
    for (size_t i = 0; i < count; ++i) logits[i] /= sum;
}

}  // extern "C"
