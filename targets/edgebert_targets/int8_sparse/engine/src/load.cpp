#include "load.h"

#include <string>

#include "error.h"
#include "gguf.h"
#include "load_keys.h"
#include "load_tokenizer.h"
#include "load_weights.h"

namespace edgebert {

namespace {

constexpr uint32_t FORMAT = 1;
constexpr uint32_t MAX_WIDTH = 65536;  // 65536 * 127 * 255 < 2^31: INT8 sums stay exact in 32 bits
constexpr uint32_t MAX_HEAD_SIZE = 256;
constexpr uint32_t MAX_LAYERS = 1024;
constexpr uint32_t MAX_LENGTH = 65536;  // 65536 * 255 * 127 < 2^31, the attention's sums
constexpr uint32_t MAX_VOCABULARY = 1u << 24;
constexpr uint32_t MAX_TOKEN_TYPES = 65536;
constexpr uint32_t MAX_LABELS = 65536;

const char *const TASKS[] = {"classification", "token-classification", "question-answering", "embedding"};
const char *const ACTIVATIONS[] = {"gelu", "gelu_tanh", "relu", "tanh"};  // as Activation counts them

eb_status check_format(Gguf *gguf) {
    std::string architecture;
    uint32_t number = 0;
    if (eb_status status = read_string(gguf, "general.architecture", &architecture)) return status;
    if (architecture != "edgebert")
        return fail(EB_ERROR_VERSION,
                    "a GGUF file for '%.40s', not 'edgebert'; give a model made by EdgeBERT",
                    architecture.c_str());
    if (eb_status status = read_u32(gguf, "edgebert.format", 0, UINT32_MAX, &number)) return status;
    if (number != FORMAT)
        return fail(EB_ERROR_VERSION, "model format %u, this library reads %u; update it or convert again",
                    number, FORMAT);
    return read_u32(gguf, "general.alignment", GGUF_ALIGNMENT, GGUF_ALIGNMENT, &number);
}

struct Geometry {
    uint32_t intermediate = 0, layers = 0;
    float norm_eps = 0;
};

eb_status read_geometry(Gguf *gguf, Model *model, Geometry *geometry) {
    const struct {
        const char *key;
        uint32_t high, *out;
    } numbers[] = {{"edgebert.hidden_size", MAX_WIDTH, &model->hidden},
                   {"edgebert.intermediate_size", MAX_WIDTH, &geometry->intermediate},
                   {"edgebert.heads", MAX_WIDTH, &model->heads},
                   {"edgebert.layers", MAX_LAYERS, &geometry->layers},
                   {"edgebert.max_length", MAX_LENGTH, &model->max_length},
                   {"edgebert.vocabulary", MAX_VOCABULARY, &model->vocabulary}};
    for (const auto &one : numbers)
        if (eb_status status = read_u32(gguf, one.key, 1, one.high, one.out)) return status;
    if (model->hidden % model->heads != 0 || model->hidden / model->heads > MAX_HEAD_SIZE)
        return fail(EB_ERROR_FORMAT, "%u heads for %u channels: not whole heads of at most %u; convert again",
                    model->heads, model->hidden, MAX_HEAD_SIZE);
    uint32_t choice = 0;
    if (eb_status status = read_choice(gguf, "edgebert.task", TASKS, 4, &choice)) return status;
    model->task = static_cast<eb_task>(choice);
    if (eb_status status = read_choice(gguf, "edgebert.activation", ACTIVATIONS, 3, &choice)) return status;
    model->activation = static_cast<Activation>(choice);
    if (eb_status status = read_f32(gguf, "edgebert.norm_eps", &geometry->norm_eps)) return status;
    if (!(geometry->norm_eps >= 0 && geometry->norm_eps < 1))
        return fail(EB_ERROR_FORMAT, "edgebert.norm_eps is %g, outside [0, 1); convert the model again",
                    static_cast<double>(geometry->norm_eps));
    return EB_OK;
}

eb_status read_norm(Gguf *gguf, const std::string &name, uint32_t size, float eps, Norm *out) {
    out->eps = eps;
    if (eb_status status = read_vector(gguf, name + ".weight", size, &out->weight)) return status;
    return read_vector(gguf, name + ".bias", size, &out->bias);
}

// Rows (0: any) and columns of the table `name`, from whichever of its two forms is there.
eb_status table_shape(Gguf *gguf, const std::string &name, uint32_t max_rows, uint32_t max_columns,
                      uint32_t *rows, uint32_t *columns) {
    const GgufTensor *tensor = gguf->tensor(name + ".values");
    if (tensor == nullptr) tensor = gguf->tensor(name + ".floats");
    if (tensor == nullptr || tensor->dimensions != 2 || tensor->shape[0] > max_rows ||
        tensor->shape[1] > max_columns)
        return fail(EB_ERROR_FORMAT, "table '%s' is missing or over %u rows of %u; convert the model again",
                    name.c_str(), max_rows, max_columns);
    *rows = static_cast<uint32_t>(tensor->shape[0]);
    *columns = static_cast<uint32_t>(tensor->shape[1]);
    return EB_OK;
}

eb_status read_embeddings(Gguf *gguf, float eps, Model *model) {
    uint32_t rows = 0, width = 0, unused = 0;
    if (eb_status status = table_shape(gguf, "embeddings.word", model->vocabulary, MAX_WIDTH, &rows, &width))
        return status;
    if (eb_status status = read_table(gguf, "embeddings.word", model->vocabulary, width, &model->word))
        return status;
    if (eb_status status =
            read_table(gguf, "embeddings.position", model->max_length, width, &model->position))
        return status;
    const std::string types = "embeddings.token_type";
    if (gguf->has_tensor(types + ".values") || gguf->has_tensor(types + ".floats")) {
        if (eb_status status = table_shape(gguf, types, MAX_TOKEN_TYPES, width, &rows, &unused))
            return status;
        if (eb_status status = read_table(gguf, types, rows, width, &model->token_type)) return status;
    }
    if (eb_status status = read_norm(gguf, "embeddings.norm", width, eps, &model->embedding_norm))
        return status;
    const std::string projection = "embeddings.projection";
    if (width != model->hidden || gguf->has_tensor(projection + ".scale"))
        return read_linear(gguf, projection, model->hidden, width, &model->projection);
    return EB_OK;
}

eb_status read_layer(Gguf *gguf, uint32_t number, const Geometry &geometry, uint32_t hidden, Layer *layer) {
    const std::string name = "layers." + std::to_string(number);
    const struct {
        const char *part;
        uint32_t out, in;
        Linear *linear;
    } linears[] = {{".query", hidden, hidden, &layer->query},
                   {".key", hidden, hidden, &layer->key},
                   {".value", hidden, hidden, &layer->value},
                   {".attention_output", hidden, hidden, &layer->attention_output},
                   {".intermediate", geometry.intermediate, hidden, &layer->intermediate},
                   {".output", hidden, geometry.intermediate, &layer->output}};
    for (const auto &one : linears)
        if (eb_status status = read_linear(gguf, name + one.part, one.out, one.in, one.linear)) return status;
    if (eb_status status =
            read_norm(gguf, name + ".attention_norm", hidden, geometry.norm_eps, &layer->attention_norm))
        return status;
    return read_norm(gguf, name + ".output_norm", hidden, geometry.norm_eps, &layer->output_norm);
}

eb_status read_head(Gguf *gguf, Model *model) {
    uint32_t outputs = 2;  // start and end
    if (model->task == EB_TASK_EMBEDDING)
        return read_bool(gguf, "edgebert.head.normalize", &model->normalize);
    if (model->task != EB_TASK_QUESTION_ANSWERING) {
        if (eb_status status = read_strings(gguf, "edgebert.labels", &model->labels)) return status;
        if (model->labels.empty() || model->labels.size() > MAX_LABELS)
            return fail(EB_ERROR_FORMAT, "%zu labels, not 1 to %u; convert the model again",
                        model->labels.size(), MAX_LABELS);
        outputs = static_cast<uint32_t>(model->labels.size());
    }
    if (model->task == EB_TASK_CLASSIFICATION) {
        uint32_t choice = 0;
        if (eb_status status = read_choice(gguf, "edgebert.head.activation", ACTIVATIONS, 4, &choice))
            return status;
        model->head_activation = static_cast<Activation>(choice);
        if (eb_status status =
                read_linear(gguf, "head.dense", model->hidden, model->hidden, &model->head_dense))
            return status;
    }
    return read_linear(gguf, "head.out", outputs, model->hidden, &model->head_out);
}

eb_status load(const uint8_t *data, size_t size, Model *model, TokenizerSettings *tokenizer,
               bool *has_tokenizer) {
    Gguf gguf;
    Geometry geometry;
    if (eb_status status = gguf.parse(data, size)) return status;
    if (eb_status status = check_format(&gguf)) return status;
    if (eb_status status = read_geometry(&gguf, model, &geometry)) return status;
    if (eb_status status = read_embeddings(&gguf, geometry.norm_eps, model)) return status;
    for (uint32_t i = 0; i < geometry.layers; ++i) {
        model->layers.emplace_back();
        if (eb_status status = read_layer(&gguf, i, geometry, model->hidden, &model->layers.back()))
            return status;
    }
    if (eb_status status = read_head(&gguf, model)) return status;
    if (eb_status status =
            read_tokenizer(&gguf, model->vocabulary, model->token_type.rows, tokenizer, has_tokenizer))
        return status;
    return gguf.check_all_used("edgebert.");
}

}  // namespace

eb_status load_model(const uint8_t *data, size_t size, Model *model, TokenizerSettings *tokenizer,
                     bool *has_tokenizer) {
    if (data == nullptr || model == nullptr || tokenizer == nullptr || has_tokenizer == nullptr)
        return fail(EB_ERROR_ARGUMENT, "a null pointer to load_model; pass all five");
    if (reinterpret_cast<uintptr_t>(data) % MODEL_ALIGNMENT != 0)
        return fail(EB_ERROR_ARGUMENT, "the model's bytes are not %zu-byte aligned; map or copy the file so",
                    MODEL_ALIGNMENT);
    *model = Model{};
    *tokenizer = TokenizerSettings{};
    *has_tokenizer = false;
    return load(data, size, model, tokenizer, has_tokenizer);
}

}  // namespace edgebert
