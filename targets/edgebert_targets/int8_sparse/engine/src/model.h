// A model in memory: views of the mapped file plus what is derived from it at load.
//
// Everything here has been checked against the file's size and against itself by the reader (gguf.cpp,
// model.cpp): the code that runs the model relies on it and checks nothing again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "edgebert.h"

namespace edgebert {

// Columns of a slab: the packed activations of 64 tokens by 768 inputs just fill a 48 KiB first-level cache.
constexpr uint32_t SLAB_COLUMNS = 768;

// Rows of a chunk: the unit that threads share. Visits are sorted within it.
constexpr uint32_t CHUNK_ROWS = 128;

// Bytes behind the last block's number that may be read.
constexpr uint32_t INDEX_PADDING = 8;

// What the end of a row needs, in the order in which rows are visited.
struct RowParameters {
    float scale;   // per-channel scale of the weights, > 0
    float bias;    //
    int32_t sum;   // sum of the whole row's weights, over all slabs
    uint32_t row;  // output channel
};

// Blocks of 1x4 weights within SLAB_COLUMNS consecutive inputs. Within each CHUNK_ROWS consecutive rows, rows
// are visited by falling number of blocks (ties: rising row), so that loop counts are predictable.
struct SparseSlab {
    const int8_t *values;               // 4 for each block, in the order of the visits; mapped
    std::vector<uint8_t> index;         // block number within the slab (input / 4), each block; padded
    std::vector<uint8_t> count;         // blocks of the row, for each visit
    std::vector<RowParameters> rows;    // for each visit
    std::vector<uint32_t> chunk_start;  // first block of each chunk, and the number of blocks at the end
};

// y = W x + b, weights INT8. Either `dense` ([out][in], mapped; rows visited in order) or `slabs` is used.
// `in` is a multiple of 4 for sparse weights; dense weights take any `in`.
struct Linear {
    uint32_t out = 0;
    uint32_t in = 0;
    const int8_t *dense = nullptr;
    std::vector<RowParameters> rows;  // of dense weights; empty for sparse ones
    std::vector<SparseSlab> slabs;    // ceil(in / SLAB_COLUMNS)
};

struct Norm {
    std::vector<float> weight, bias;
    float eps = 0;
};

// A table of rows: INT8 with a scale a row, or float32.
struct Table {
    uint32_t rows = 0, width = 0;
    const int8_t *values = nullptr;  // mapped
    std::vector<float> scale;        // [rows]
    std::vector<float> floats;       // [rows * width] when values is null
};

struct Layer {
    Linear query, key, value, attention_output, intermediate, output;
    Norm attention_norm, output_norm;
};

enum class Activation : uint32_t { gelu = 0, gelu_tanh = 1, relu = 2, tanh = 3 };

struct Model {
    eb_task task = EB_TASK_CLASSIFICATION;
    uint32_t hidden = 0, heads = 0, max_length = 0, vocabulary = 0;
    Activation activation = Activation::gelu;
    Table word, position, token_type;  // token_type.rows == 0: none
    Norm embedding_norm;
    Linear projection;  // ELECTRA's embeddings -> hidden; out == 0: none
    std::vector<Layer> layers;
    // Classification: out(activation(dense(first token))). Tokens and questions: out alone. Embedding:
    // neither.
    Linear head_dense;  // out == 0: none
    Activation head_activation = Activation::tanh;
    Linear head_out;         // out == 0: none
    bool normalize = false;  // embedding: divide by the Euclidean length
    std::vector<std::string> labels;

    uint32_t intermediate() const { return layers.empty() ? 0 : layers[0].intermediate.out; }
};

}  // namespace edgebert
