// NEON's own form of the attention kernels of kernels_impl.h. Included by an arch file once it has defined
// `Neon`, its vector type; the float operations and their order are those of the general form.
#pragma once

#include "neon_copies.h"

namespace edgebert {
namespace {

// --- quantisation ---

// round(x * inverse) of 4 channels, interleaved. |x * inverse| rounds to at most 127: no clamp.
EB_INLINE int8x16_t symmetric_block(const float *x, uint32_t channels, float32x4_t inverse) {
    int32x4_t q[4];
    EB_UNROLL for (uint32_t i = 0; i < 4; i++) q[i] =
        i < channels ? vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i * TILE), inverse)) : vdupq_n_s32(0);
    return Neon::interleave(q[0], q[1], q[2], q[3]);
}

// A group of lanes of the queries, or of the keys if `sum` is not null.
EB_INLINE void quantize_group(const float *x, uint32_t channels, float factor, int8_t *packed, float *scale,
                              int32_t *sum) {
    float32x4_t most[4], inverse[4];
    int32x4_t total[4];
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) most[j] = vdupq_n_f32(0.0f);
    for (uint32_t c = 0; c < channels; c++)
        EB_UNROLL for (uint32_t j = 0; j < 4; j++) most[j] =
            vmaxq_f32(most[j], vabsq_f32(vld1q_f32(x + size_t{c} * TILE + j * 4)));
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        inverse[j] = Attention<Neon>::inverse_step(most[j]);
        float32x4_t step = vdivq_f32(most[j], vdupq_n_f32(127.0f));
        if (sum == nullptr) step = vmulq_f32(step, vdupq_n_f32(factor));
        vst1q_f32(scale + j * 4, step);
        total[j] = vdupq_n_s32(0);
    }
    for (uint32_t c = 0; c < channels; c += 4, x += 4 * TILE, packed += Neon::BLOCK) {
        EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
            const int8x16_t block = channels - c >= 4 ? symmetric_block(x + j * 4, 4, inverse[j])
                                                      : symmetric_block(x + j * 4, channels - c, inverse[j]);
            vst1q_s8(packed + j * 16, block);
            if (sum != nullptr) Neon::dot(total[j], block, vdupq_n_s8(1));
        }
    }
    if (sum != nullptr) EB_UNROLL for (uint32_t j = 0; j < 4; j++) vst1q_s32(sum + j * 4, total[j]);
}

template <>
inline void Attention<Neon>::quantize_queries(const float *x, uint32_t channels, uint32_t lanes, float factor,
                                              uint8_t *packed, float *scale) {
    int8_t *out = reinterpret_cast<int8_t *>(packed);
    for (uint32_t l = 0; l < lanes; l += GROUP)
        quantize_group(x + l, channels, factor, out + l * 4, scale + l, nullptr);
}

template <>
inline void Attention<Neon>::quantize_keys(const float *x, uint32_t channels, uint32_t lanes, uint8_t *packed,
                                           float *scale, int32_t *sum) {
    int8_t *out = reinterpret_cast<int8_t *>(packed);
    for (uint32_t l = 0; l < lanes; l += GROUP)
        quantize_group(x + l, channels, 1.0f, out + l * 4, scale + l, sum + l);
}

// The first `count` lanes of a group, zeros after them.
EB_INLINE void load_lanes(const float *x, uint32_t count, float32x4_t (&v)[4]) {
    const uint32_t numbers[4] = {0, 1, 2, 3};
    const uint32x4_t lane = vld1q_u32(numbers);
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        v[j] = vld1q_f32(x + j * 4);
        if (count >= GROUP) continue;
        const uint32x4_t keep = vcltq_u32(vaddq_u32(lane, vdupq_n_u32(j * 4)), vdupq_n_u32(count));
        v[j] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v[j]), keep));
    }
}

template <>
inline void Attention<Neon>::quantize_values(const float *x, size_t tile_stride, uint32_t first_slot,
                                             uint32_t length, uint32_t channels, int8_t *values,
                                             size_t value_stride, float *scale, int32_t *sum) {
    const uint32_t whole = length / GROUP * GROUP;
    for (uint32_t c = 0; c < channels; c++, values += value_stride) {
        const float *row = x + size_t{c} * TILE;
        auto tokens = [=](uint32_t t) {
            const uint32_t slot = first_slot + t;
            return row + slot / TILE * tile_stride + slot % TILE;
        };
        float32x4_t v[4], most[4];
        int32x4_t total = vdupq_n_s32(0);
        EB_UNROLL for (uint32_t j = 0; j < 4; j++) most[j] = vdupq_n_f32(0.0f);
        for (uint32_t t = 0; t < length; t += GROUP) {
            if (t < whole)
                load_lanes(tokens(t), GROUP, v);
            else
                load_lanes(tokens(t), length - t, v);
            EB_UNROLL for (uint32_t j = 0; j < 4; j++) most[j] = vmaxq_f32(most[j], vabsq_f32(v[j]));
        }
        const float largest = vmaxvq_f32(vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3])));
        scale[c] = largest / 127.0f;
        const float32x4_t inverse = inverse_step(vdupq_n_f32(largest));
        for (uint32_t t = 0; t < length; t += GROUP) {
            if (t < whole)
                load_lanes(tokens(t), GROUP, v);
            else
                load_lanes(tokens(t), length - t, v);
            int16x8_t n[4];
            EB_UNROLL for (uint32_t j = 0; j < 4; j++) n[j] =
                vreinterpretq_s16_s32(vcvtnq_s32_f32(vmulq_f32(v[j], inverse)));
            const int8x16_t bytes = vuzp1q_s8(vreinterpretq_s8_s16(vuzp1q_s16(n[0], n[1])),
                                              vreinterpretq_s8_s16(vuzp1q_s16(n[2], n[3])));
            Neon::dot(total, bytes, vdupq_n_s8(1));
            if (t < whole) {
                vst1q_s8(values + t, bytes);
            } else {
                int8_t last[GROUP];
                vst1q_s8(last, bytes);
                std::memcpy(values + t, last, (length - t + 3) / 4 * 4);
            }
        }
        sum[c] = vaddvq_s32(total);
    }
}

// --- the head ---

// round(255 * 2^x) for 4 vectors.
EB_INLINE void exp2_bytes(const float32x4_t (&exponent)[4], int32x4_t (&byte)[4]) {
    const float(*constant)[COPIES] = at_each_use(EXP2_BYTE_COPIES.of);
    float32x4_t z[4], f[4], p[4];
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        const float32x4_t x = vmaxq_f32(exponent[j], vdupq_n_f32(EXP2_BYTE_LOWEST));
        z[j] = vaddq_f32(x, vdupq_n_f32(ROUNDER));
        f[j] = vsubq_f32(x, vsubq_f32(z[j], vdupq_n_f32(ROUNDER)));
        p[j] = vdupq_n_f32(EXP2_BYTE[4]);
    }
    EB_UNROLL for (int i = 3; i >= 0; i--) EB_UNROLL for (uint32_t j = 0; j < 4; j++) p[j] =
        vfmaq_f32(vld1q_f32(&constant[i][j * 4]), p[j], f[j]);
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        // p * 2^z: the lowest bits of z, moved to the exponent's place
        const int32x4_t bits = vmlaq_n_s32(vreinterpretq_s32_f32(p[j]), vreinterpretq_s32_f32(z[j]), 1 << 23);
        byte[j] = vcvtnq_s32_f32(vreinterpretq_f32_s32(bits));
    }
}

// Packed probabilities of the 8 lanes at `scores`, and what their bytes, 128 too small, sum to.
EB_INLINE void exponentials_8(const float *scores, uint32_t length, const float32x4_t *scale,
                              const float32x4_t *most, int8_t *packed, int32x4_t *total) {
    for (uint32_t u = 0; u < length; u += 4, scores += 4 * TILE, packed += Neon::BLOCK) {
        int32x4_t p[2][4];
        EB_UNROLL for (uint32_t i = 0; i < 2; i++) {
            // past the last score any will do: its probability becomes 0 below
            const float *first = scores + (u + 2 * i < length ? 2 * i * TILE : 0);
            const float *second = scores + (u + 2 * i + 1 < length ? (2 * i + 1) * TILE : 0);
            float32x4_t exponent[4];
            EB_UNROLL for (uint32_t j = 0; j < 2; j++) {
                exponent[j] = vmulq_f32(vsubq_f32(vld1q_f32(first + j * 4), most[j]), scale[j]);
                exponent[2 + j] = vmulq_f32(vsubq_f32(vld1q_f32(second + j * 4), most[j]), scale[j]);
            }
            exp2_bytes(exponent, p[i]);
        }
        EB_UNROLL for (uint32_t j = 0; j < 2; j++) {
            int8x16_t bytes = Neon::interleave(p[0][j], p[0][2 + j], p[1][j], p[1][2 + j]);
            if (length - u < 4) {
                const uint32_t keep = (1u << (length - u) * 8) - 1;
                bytes = vandq_s8(bytes, vreinterpretq_s8_u32(vdupq_n_u32(keep)));
            }
            bytes = veorq_s8(bytes, vdupq_n_s8(-128));
            Neon::dot(total[j], bytes, vdupq_n_s8(1));
            vst1q_s8(packed + j * 16, bytes);
        }
    }
}

template <>
template <>
inline void Attention<Neon>::attend_lanes<4>(const AttentionHead &given, uint32_t lane) {
    const AttentionHead head = given;  // stores cannot change a copy
    const uint32_t blocks = (head.channels + 3) / 4, length = head.length;
    float32x4_t most[4], scale[4], inverse[4];
    int32x4_t total[4];
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) most[j] = vdupq_n_f32(-3.0e38f);
    float *score = head.scores + lane;
    for (uint32_t u = 0; u < length; u += 4) {
        const uint32_t slot = head.first_slot + u;
        const int8_t *keys =
            reinterpret_cast<const int8_t *>(head.keys) + slot / TILE * head.key_stride + slot % TILE * 4;
        int32x4_t acc[4][4];
        EB_UNROLL for (uint32_t i = 0; i < 4; i++) EB_UNROLL for (uint32_t j = 0; j < 4; j++) acc[i][j] =
            vdupq_n_s32(0);
        key_products<4>(acc, keys, head.queries, lane, blocks);
        EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
            if (u + i >= length) break;
            const float key_scale = head.key_scale[slot + i];
            EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
                const float32x4_t e = vmulq_n_f32(vcvtq_f32_s32(acc[i][j]), key_scale);
                most[j] = vmaxq_f32(most[j], e);
                vst1q_f32(score + j * 4, e);
            }
            score += TILE;
        }
    }
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
        scale[j] = vld1q_f32(head.query_scale + lane + j * 4);
        total[j] = vdupq_n_s32(0);
    }
    int8_t *probabilities = reinterpret_cast<int8_t *>(head.probabilities) + size_t{lane} * 4;
    EB_UNROLL for (uint32_t j = 0; j < 4; j += 2) exponentials_8(
        head.scores + lane + j * 4, length, scale + j, most + j, probabilities + j * 16, total + j);
    const int32x4_t missing = vdupq_n_s32(static_cast<int32_t>((length + 3) / 4 * 4 * Neon::SHIFT));
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) inverse[j] =
        vdivq_f32(vdupq_n_f32(1.0f), vcvtq_f32_s32(vaddq_s32(total[j], missing)));
    uint32_t c = 0;
    for (; c + 4 <= head.channels; c += 4) weigh<4, 4>(head, c, lane, (length + 3) / 4, inverse);
    for (; c < head.channels; c++) weigh<1, 4>(head, c, lane, (length + 3) / 4, inverse);
}

}  // namespace
}  // namespace edgebert
