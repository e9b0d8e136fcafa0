// The kernels of one instruction set, as a table of functions.
//
// Activations lie as [channel][lane]: a tile is TILE token lanes, a row of it TILE consecutive numbers, and
// every kernel works on whole groups of GROUP lanes. A reduction over channels is a loop in channel order for
// each lane by itself, so all instruction sets compute the same bits. The scalar table is the oracle.
//
// Panels are float [rows][TILE]; packed panels hold quantised activations as the instruction set wants them:
// `packed_block` bytes for 4 channels of a tile. All pointers to panels are 64-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model.h"

namespace edgebert {

constexpr uint32_t TILE = 64;
constexpr uint32_t GROUP = 16;

// Step and zero point of each lane's quantised activations. `zero` is in the packed form's own domain.
struct alignas(64) TokenScales {
    float step[TILE];
    int32_t zero[TILE];
};

// What happens to y = W x + b.
enum class Finish {
    store,  // out = y
    add     // out += y
};

// Integer products of one attention head with one tile of queries. Slots count the tokens of the batch;
// slot s is lane s % TILE of tile s / TILE. A sequence starts at a multiple of GROUP.
struct AttentionHead {
    uint32_t channels;    // head size
    uint32_t first_slot;  // of the sequence
    uint32_t length;      // tokens of the sequence
    uint32_t lane_begin;  // queries: lanes [lane_begin, lane_end) of the query tile
    uint32_t lane_end;
    const uint8_t *queries;    // packed, of the query tile
    const float *query_scale;  // [TILE], times log2(e) / sqrt(head size)
    const uint8_t *keys;       // packed, of tile 0
    size_t key_stride;         // bytes from tile to tile
    const float *key_scale;    // [slots]
    const int32_t *key_sum;    // [slots] sums of a key's integers over its channels
    const int8_t *values;      // [channels][value_stride], from the sequence's first token
    size_t value_stride;       // a multiple of 4; zeros from `length` to the next multiple of 4
    const float *value_scale;  // [channels]
    const int32_t *value_sum;  // [channels]
    float *scores;             // scratch: [length rounded up to 4][TILE]
    uint8_t *probabilities;    // scratch: packed, `length` channels
    float *out;                // [channels][TILE] of the query tile
};

struct Kernels {
    const char *name;
    size_t packed_block;  // bytes

    // Dynamic quantisation of [rows][TILE], each lane by itself (docs/formats.md).
    void (*quantize)(const float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end, uint8_t *packed,
                     TokenScales *scales);

    // Rows of chunks [chunk_begin, chunk_end) of a linear layer for lanes [0, lanes). `partial`, [out][TILE],
    // keeps the sums of layers with more than one slab.
    void (*linear)(const Linear &linear, uint32_t chunk_begin, uint32_t chunk_end, const uint8_t *packed,
                   const TokenScales &scales, uint32_t lanes, Finish finish, float *out, int32_t *partial);

    // LayerNorm over `rows` channels, in place.
    void (*normalize)(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin, uint32_t lane_end);

    // An activation in place.
    void (*activate)(Activation activation, float *x, uint32_t rows, uint32_t lanes);

    // Symmetric, per lane over `channels`; scale[lane] = max|x| / 127 * factor.
    void (*quantize_queries)(const float *x, uint32_t channels, uint32_t lanes, float factor, uint8_t *packed,
                             float *scale);
    void (*quantize_keys)(const float *x, uint32_t channels, uint32_t lanes, uint8_t *packed, float *scale,
                          int32_t *sum);

    // Symmetric, per channel over the tokens of a sequence. x: channel 0 in tile 0; tiles `tile_stride`
    // floats apart.
    void (*quantize_values)(const float *x, size_t tile_stride, uint32_t first_slot, uint32_t length,
                            uint32_t channels, int8_t *values, size_t value_stride, float *scale,
                            int32_t *sum);

    void (*attend)(const AttentionHead &head);

    // `normalize`, then `quantize` of the result.
    void (*normalize_quantize)(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin,
                               uint32_t lane_end, uint8_t *packed, TokenScales *scales);

    // GELU in place, then `quantize` of the result.
    void (*gelu_quantize)(float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end, uint8_t *packed,
                          TokenScales *scales);
};

// Null where the library was built without them. Whether the CPU runs them is cpu.h's business.
const Kernels *kernels_scalar();
const Kernels *kernels_avx2();
const Kernels *kernels_avx_vnni();
const Kernels *kernels_avx512_vnni();
const Kernels *kernels_neon();
const Kernels *kernels_neon_dotprod();

}  // namespace edgebert
