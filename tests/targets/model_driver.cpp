// The engine's model reader as a child process. Request: u32 size, u32 quiet, the file's bytes. Answer: u32
// status, the message, and, unless the load failed or `quiet`, every array of the model: u32 count of arrays,
// each a name, a type letter, u32 bytes, the bytes. A text is u32 size and bytes.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"
#include "load.h"

using namespace edgebert;

namespace {

struct Dump {
    std::string bytes;
    uint32_t arrays = 0;

    void number(uint32_t value) { bytes.append(reinterpret_cast<const char *>(&value), sizeof value); }
    void text(const std::string &value) {
        number(static_cast<uint32_t>(value.size()));
        bytes += value;
    }
    void array(const std::string &name, char type, const void *data, size_t size) {
        ++arrays;
        text(name);
        bytes += type;
        number(static_cast<uint32_t>(size));
        bytes.append(static_cast<const char *>(data), size);
    }
    void floats(const std::string &name, const std::vector<float> &values) {
        array(name, 'f', values.data(), values.size() * sizeof(float));
    }
    void integers(const std::string &name, const std::vector<int32_t> &values) {
        array(name, 'i', values.data(), values.size() * sizeof(int32_t));
    }
    void weights(const std::string &name, const int8_t *values, size_t count) {
        array(name, 'b', values, count);
    }
    void string(const std::string &name, const std::string &value) {
        array(name, 's', value.data(), value.size());
    }
    void strings(const std::string &name, const std::vector<std::string> &values) {
        std::string joined;
        for (const std::string &value : values) joined += value + '\0';
        string(name, joined);
    }
};

void dump_rows(const std::string &name, const std::vector<RowParameters> &rows, Dump *dump) {
    std::vector<float> scale, bias;
    std::vector<int32_t> sum, row;
    for (const RowParameters &one : rows) {
        scale.push_back(one.scale);
        bias.push_back(one.bias);
        sum.push_back(one.sum);
        row.push_back(static_cast<int32_t>(one.row));
    }
    dump->floats(name + ".scale", scale);
    dump->floats(name + ".bias", bias);
    dump->integers(name + ".sum", sum);
    dump->integers(name + ".row", row);
}

// The matrix as the kernels will see it: from indices and counts in the order of the visits.
void dump_linear(const std::string &name, const Linear &linear, Dump *dump) {
    if (linear.out == 0) return;
    dump->integers(name + ".shape", {static_cast<int32_t>(linear.out), static_cast<int32_t>(linear.in)});
    std::vector<int8_t> weights(size_t{linear.out} * linear.in);
    if (linear.dense != nullptr) {
        dump->weights(name + ".weights", linear.dense, weights.size());
        dump_rows(name, linear.rows, dump);
        return;
    }
    for (size_t s = 0; s < linear.slabs.size(); ++s) {
        const SparseSlab &slab = linear.slabs[s];
        const std::string slab_name = name + ".slab" + std::to_string(s);
        const int8_t *values = slab.values;
        size_t next = 0;
        std::vector<int32_t> counts;
        for (size_t visit = 0; visit < slab.rows.size(); ++visit) {
            counts.push_back(slab.count[visit]);
            for (uint32_t i = 0; i < slab.count[visit]; ++i, values += 4) {
                size_t column = s * SLAB_COLUMNS + size_t{4} * slab.index[next++];
                if (column + 4 > linear.in) std::abort();
                std::memcpy(&weights[size_t{slab.rows[visit].row} * linear.in + column], values, 4);
            }
        }
        if (next != slab.chunk_start.back()) std::abort();
        dump->integers(slab_name + ".counts", counts);
        dump_rows(slab_name, slab.rows, dump);
    }
    dump->weights(name + ".weights", weights.data(), weights.size());
}

void dump_table(const std::string &name, const Table &table, Dump *dump) {
    if (table.values != nullptr)
        dump->weights(name + ".values", table.values, size_t{table.rows} * table.width);
    dump->floats(name + ".scale", table.scale);
    dump->floats(name + ".floats", table.floats);
    dump->integers(name + ".shape", {static_cast<int32_t>(table.rows), static_cast<int32_t>(table.width)});
}

void dump_norm(const std::string &name, const Norm &norm, Dump *dump) {
    dump->floats(name + ".weight", norm.weight);
    dump->floats(name + ".bias", norm.bias);
    dump->floats(name + ".eps", {norm.eps});
}

void dump_model(const Model &model, Dump *dump) {
    dump->integers("geometry",
                   {static_cast<int32_t>(model.task), static_cast<int32_t>(model.hidden),
                    static_cast<int32_t>(model.heads), static_cast<int32_t>(model.max_length),
                    static_cast<int32_t>(model.vocabulary), static_cast<int32_t>(model.activation),
                    static_cast<int32_t>(model.layers.size()), static_cast<int32_t>(model.head_activation),
                    static_cast<int32_t>(model.normalize), static_cast<int32_t>(model.intermediate())});
    dump_table("embeddings.word", model.word, dump);
    dump_table("embeddings.position", model.position, dump);
    dump_table("embeddings.token_type", model.token_type, dump);
    dump_norm("embeddings.norm", model.embedding_norm, dump);
    dump_linear("embeddings.projection", model.projection, dump);
    for (size_t i = 0; i < model.layers.size(); ++i) {
        const std::string name = "layers." + std::to_string(i);
        const Layer &layer = model.layers[i];
        dump_linear(name + ".query", layer.query, dump);
        dump_linear(name + ".key", layer.key, dump);
        dump_linear(name + ".value", layer.value, dump);
        dump_linear(name + ".attention_output", layer.attention_output, dump);
        dump_linear(name + ".intermediate", layer.intermediate, dump);
        dump_linear(name + ".output", layer.output, dump);
        dump_norm(name + ".attention_norm", layer.attention_norm, dump);
        dump_norm(name + ".output_norm", layer.output_norm, dump);
    }
    dump_linear("head.dense", model.head_dense, dump);
    dump_linear("head.out", model.head_out, dump);
    dump->strings("labels", model.labels);
}

void dump_tokenizer(const TokenizerSettings &settings, Dump *dump) {
    dump->integers("tokenizer.numbers",
                   {static_cast<int32_t>(settings.kind), settings.clean_text, settings.chinese_characters,
                    settings.strip_accents, settings.lowercase, settings.add_prefix_space,
                    static_cast<int32_t>(settings.max_word_characters)});
    dump->string("tokenizer.unknown", settings.unknown);
    dump->string("tokenizer.prefix", settings.prefix);
    dump->strings("tokenizer.tokens", settings.tokens);
    dump->strings("tokenizer.merges", settings.merges);
    dump->integers("tokenizer.single", settings.single);
    dump->integers("tokenizer.single_types", settings.single_types);
    dump->integers("tokenizer.pair", settings.pair);
    dump->integers("tokenizer.pair_types", settings.pair_types);
    std::vector<std::string> content;
    std::vector<int32_t> added;
    for (const AddedToken &token : settings.added) {
        content.push_back(token.content);
        added.insert(added.end(),
                     {token.id, token.single_word, token.strip_left, token.strip_right, token.normalized});
    }
    dump->strings("tokenizer.added.content", content);
    dump->integers("tokenizer.added", added);
}

bool read_exactly(void *data, size_t size) { return std::fread(data, 1, size, stdin) == size; }

}  // namespace

int main() {
    uint32_t header[2];
    while (read_exactly(header, sizeof header)) {
        // exactly as large as the file, so that a sanitizer sees a byte read too many
        void *data = nullptr;
        if (posix_memalign(&data, 64, header[0] ? header[0] : 1) != 0) return 2;
        if (!read_exactly(data, header[0])) return 3;
        Model model;
        TokenizerSettings tokenizer;
        bool has_tokenizer = false;
        eb_status status =
            load_model(static_cast<const uint8_t *>(data), header[0], &model, &tokenizer, &has_tokenizer);
        Dump answer, dump;
        answer.number(static_cast<uint32_t>(status));
        answer.text(status == EB_OK ? "" : last_error());
        if (status == EB_OK) {
            dump_model(model, &dump);
            if (has_tokenizer) dump_tokenizer(tokenizer, &dump);
        }
        if (header[1]) dump = Dump{};
        answer.number(dump.arrays);
        answer.bytes += dump.bytes;
        std::fwrite(answer.bytes.data(), 1, answer.bytes.size(), stdout);
        std::free(data);
    }
}
