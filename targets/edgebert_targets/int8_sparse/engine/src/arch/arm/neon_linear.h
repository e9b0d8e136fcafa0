// NEON's own form of the linear layers of kernels_impl.h. Included by an arch file once it has defined
// `Neon`, its vector type; the float operations and their order are those of the general form.
#pragma once

#include "neon_copies.h"

namespace edgebert {
namespace {

template <>
template <>
EB_INLINE void Steps<Neon>::gelu_all<4>(float32x4_t (&x)[4]) {
    const float(*constant)[COPIES] = at_each_use(GELU_COPIES.of);
    float32x4_t s[4], square[4], middle[4], low[4], z[4], f[4], p[4];
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        s[j] = vminq_f32(vabsq_f32(x[j]), vdupq_n_f32(GELU_LIMIT));
        square[j] = vmulq_f32(s[j], s[j]);
        p[j] = vfmaq_f32(vld1q_f32(&constant[4][j * 4]), vdupq_n_f32(GELU[5]), s[j]);
        middle[j] = vfmaq_f32(vld1q_f32(&constant[2][j * 4]), vdupq_n_f32(GELU[3]), s[j]);
        low[j] = vfmaq_f32(vld1q_f32(&constant[0][j * 4]), vdupq_n_f32(GELU[1]), s[j]);
    }
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) p[j] = vfmaq_f32(middle[j], p[j], square[j]);
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) p[j] = vfmaq_f32(low[j], p[j], square[j]);
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        z[j] = vaddq_f32(p[j], vdupq_n_f32(ROUNDER));
        f[j] = vsubq_f32(p[j], vsubq_f32(z[j], vdupq_n_f32(ROUNDER)));
        p[j] = vdupq_n_f32(GELU_EXP2[4]);
    }
    constant = at_each_use(GELU_EXP2_COPIES.of);
    EB_UNROLL for (int i = 3; i >= 0; i--) EB_UNROLL for (uint32_t j = 0; j < 4; j++) p[j] =
        vfmaq_f32(vld1q_f32(&constant[i][j * 4]), p[j], f[j]);
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        // p * 2^z: the lowest bits of z, moved to the exponent's place
        const int32x4_t bits = vmlaq_n_s32(vreinterpretq_s32_f32(p[j]), vreinterpretq_s32_f32(z[j]), 1 << 23);
        x[j] = vfmaq_f32(vmaxq_f32(x[j], vdupq_n_f32(0.0f)), s[j], vreinterpretq_f32_s32(bits));
    }
}

// The row's outputs from its sums, the zero points' part already in them.
template <Finish FINISH, uint32_t N>
EB_INLINE void store_row(const int32x4_t (&acc)[N], const RowParameters &row, const float *step, float *out) {
    float *at = out + size_t{row.row} * TILE;
    const float scale = row.scale;
    const float32x4_t bias = vdupq_n_f32(row.bias);
    EB_UNROLL for (uint32_t g = 0; g < N; g += 4) {
        // loads before stores: the compiler must take them for the same memory
        float32x4_t y[4], old[4];
        EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
            y[j] = vmulq_f32(vcvtq_f32_s32(acc[g + j]), vld1q_f32(step + (g + j) * 4));
            if (FINISH == Finish::add) old[j] = vld1q_f32(at + (g + j) * 4);
        }
        EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
            y[j] = vfmaq_n_f32(bias, y[j], scale);
            vst1q_f32(at + (g + j) * 4, FINISH == Finish::add ? vaddq_f32(old[j], y[j]) : y[j]);
        }
    }
}

template <>
template <Finish FINISH, uint32_t N>
EB_INLINE void LinearLayers<Neon>::finish_row(const int32x4_t (&acc)[N], const RowParameters &row,
                                              const TokenScales &scales, uint32_t lane, float *out) {
    int32x4_t sum[N];
    EB_UNROLL for (uint32_t j = 0; j < N; j++) sum[j] =
        vmlsq_n_s32(acc[j], vld1q_s32(scales.zero + lane + j * WIDTH), row.sum);
    store_row<FINISH, N>(sum, row, scales.step + lane, out + lane);
}

template <>
template <Finish FINISH, bool FIRST, bool LAST, uint32_t N>
inline void LinearLayers<Neon>::sparse_slab(const SparseSlab &slab, uint32_t chunk_begin, uint32_t chunk_end,
                                            const uint8_t *packed, const TokenScales &scales, uint32_t lane,
                                            float *out, int32_t *partial) {
    const size_t first = slab.chunk_start[chunk_begin];
    const int8_t *values = slab.values + first * 4;
    const uint8_t *index = slab.index.data() + first;
    const uint32_t rows = static_cast<uint32_t>(slab.rows.size()), chunks_end = chunk_end * CHUNK_ROWS;
    const uint32_t end = rows < chunks_end ? rows : chunks_end;
    const RowParameters *row = slab.rows.data() + chunk_begin * CHUNK_ROWS;
    const uint8_t *count = slab.count.data() + chunk_begin * CHUNK_ROWS, *last = slab.count.data() + end;
    for (; count != last; count++, row++) {
        int32_t *sums = partial + size_t{row->row} * TILE + lane;
        int32x4_t acc[N];
        // the zero points' part comes first: that saves the zeros
        EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[j] =
            FIRST ? vmulq_n_s32(vld1q_s32(scales.zero + lane + j * WIDTH), -row->sum)
                  : vld1q_s32(sums + j * WIDTH);
        Neon::sparse_row<N>(acc, values, index, *count, packed, lane);
        values += size_t{*count} * 4;
        index += *count;
        if constexpr (LAST)
            store_row<FINISH, N>(acc, *row, scales.step + lane, out + lane);
        else
            EB_UNROLL for (uint32_t j = 0; j < N; j++) vst1q_s32(sums + j * WIDTH, acc[j]);
    }
}

template <>
template <Finish FINISH>
inline void LinearLayers<Neon>::sparse_linear(const Linear &linear, uint32_t begin, uint32_t end,
                                              const uint8_t *packed, const TokenScales &scales,
                                              uint32_t lanes, float *out, int32_t *partial) {
    switch (lanes / GROUP) {
        case 4:
            return sparse_lanes<FINISH, 16>(linear, begin, end, packed, scales, 0, out, partial);
        case 3:
            return sparse_lanes<FINISH, 12>(linear, begin, end, packed, scales, 0, out, partial);
        case 2:
            return sparse_lanes<FINISH, 8>(linear, begin, end, packed, scales, 0, out, partial);
        default:
            return sparse_lanes<FINISH, 4>(linear, begin, end, packed, scales, 0, out, partial);
    }
}

// One block of 4 channels, the last `rows` of them, for a group of lanes. Adds of 16 bits do not overflow;
// narrowing clamps q - 128 to a signed byte.
EB_INLINE void pack_block(const float *x, uint32_t rows, const float32x4_t (&inverse)[4],
                          const int16x8_t (&offset)[4], int8_t *packed) {
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        int16x8_t n[4];
        EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
            // past the last row anything will do: its weights are zero
            const float32x4_t v = vld1q_f32(x + (i < rows ? i : 0) * TILE + j * 4);
            n[i] = vreinterpretq_s16_s32(vcvtnq_s32_f32(vmulq_f32(v, inverse[j])));
        }
        const int8x8_t low = vqmovn_s16(vaddq_s16(vtrn1q_s16(n[0], n[1]), offset[j]));
        const int8x8_t high = vqmovn_s16(vaddq_s16(vtrn1q_s16(n[2], n[3]), offset[j]));
        const int16x8_t a = vreinterpretq_s16_s8(vcombine_s8(low, vdup_n_s8(0)));
        const int16x8_t b = vreinterpretq_s16_s8(vcombine_s8(high, vdup_n_s8(0)));
        vst1q_s8(packed + j * 16, vreinterpretq_s8_s16(vzip1q_s16(a, b)));
    }
}

template <>
template <>
EB_INLINE void Activations<Neon>::pack_lanes<4>(const float *x, uint32_t rows, uint8_t *packed, uint32_t lane,
                                                const float32x4_t (&inverse)[4], const int32x4_t (&zero)[4]) {
    int16x8_t offset[4];
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        const int16x8_t shifted = vreinterpretq_s16_s32(vsubq_s32(zero[j], vdupq_n_s32(Neon::SHIFT)));
        offset[j] = vtrn1q_s16(shifted, shifted);
    }
    const float *in = x + lane;
    int8_t *out = reinterpret_cast<int8_t *>(packed) + size_t{lane} * 4;
    for (; rows >= 4; rows -= 4, in += 4 * TILE, out += Neon::BLOCK) pack_block(in, 4, inverse, offset, out);
    if (rows != 0) pack_block(in, rows, inverse, offset, out);
}

}  // namespace
}  // namespace edgebert
