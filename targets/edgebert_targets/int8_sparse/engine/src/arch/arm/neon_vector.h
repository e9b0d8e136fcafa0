// What both NEON kernel sets share of the vector type of kernels_impl.h: 4 lanes of float or int32, and
// packed activations of one byte each, q - 128, [block][lane][4 channels].
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "../../kernels_impl.h"

namespace edgebert {
namespace {

struct NeonVector {
    using F = float32x4_t;
    using I = int32x4_t;
    using X = int8x16_t;
    using W = int8x16_t;
    static constexpr uint32_t WIDTH = 4, DENSE_ROWS = 4, DENSE_VECTORS = 4, SPARSE_VECTORS = 16;
    static constexpr size_t BLOCK = TILE * 4;
    static constexpr int32_t SHIFT = 128, OFFSET = 0;

    static inline F set(float v) { return vdupq_n_f32(v); }
    static inline F load(const float *p) { return vld1q_f32(p); }
    static inline void store(float *p, F v) { vst1q_f32(p, v); }
    static inline F add(F a, F b) { return vaddq_f32(a, b); }
    static inline F sub(F a, F b) { return vsubq_f32(a, b); }
    static inline F mul(F a, F b) { return vmulq_f32(a, b); }
    static inline F div(F a, F b) { return vdivq_f32(a, b); }
    static inline F sqrt(F a) { return vsqrtq_f32(a); }
    static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static inline F min(F a, F b) { return vminq_f32(a, b); }
    static inline F max(F a, F b) { return vmaxq_f32(a, b); }
    static inline F abs(F a) { return vabsq_f32(a); }
    static inline F select_zero(F test, F yes, F no) { return vbslq_f32(vceqzq_f32(test), yes, no); }
    static inline F select_positive(F test, F yes, F no) { return vbslq_f32(vcgtzq_f32(test), yes, no); }
    static inline float largest_lane(F a) { return vmaxvq_f32(a); }
    static inline int32_t sum_lanes(I a) { return vaddvq_s32(a); }
    static inline I round(F a) { return vcvtnq_s32_f32(a); }
    static inline F to_float(I a) { return vcvtq_f32_s32(a); }
    static inline I as_int(F a) { return vreinterpretq_s32_f32(a); }
    static inline F as_float(I a) { return vreinterpretq_f32_s32(a); }

    static inline I iset(int32_t v) { return vdupq_n_s32(v); }
    static inline I iload(const int32_t *p) { return vld1q_s32(p); }
    static inline void istore(int32_t *p, I v) { vst1q_s32(p, v); }
    static inline I iadd(I a, I b) { return vaddq_s32(a, b); }
    static inline I isub(I a, I b) { return vsubq_s32(a, b); }
    static inline I imul(I a, I b) { return vmulq_s32(a, b); }
    static inline I imin(I a, I b) { return vminq_s32(a, b); }
    static inline I imax(I a, I b) { return vmaxq_s32(a, b); }
    template <int N>
    static inline I shift_left(I a) {
        return vshlq_n_s32(a, N);
    }
    static inline I first_lanes(I a, uint32_t count) {
        const int32_t lanes[4] = {0, 1, 2, 3};
        const uint32x4_t keep = vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(static_cast<int32_t>(count)));
        return vandq_s32(a, vreinterpretq_s32_u32(keep));
    }

    // The lowest bytes of a, b, c and d, interleaved.
    static inline int8x16_t interleave(I a, I b, I c, I d) {
        const int8x16_t ab = vtrn1q_s8(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
        const int8x16_t cd = vtrn1q_s8(vreinterpretq_s8_s32(c), vreinterpretq_s8_s32(d));
        return vreinterpretq_s8_s16(vtrn1q_s16(vreinterpretq_s16_s8(ab), vreinterpretq_s16_s8(cd)));
    }
    static inline void store_signed(uint8_t *at, I a, I b, I c, I d) {
        vst1q_s8(reinterpret_cast<int8_t *>(at), interleave(a, b, c, d));
    }
    static inline void store_unsigned(uint8_t *block, uint32_t lane, I a, I b, I c, I d) {
        vst1q_s8(reinterpret_cast<int8_t *>(block) + size_t{lane} * 4,
                 veorq_s8(interleave(a, b, c, d), vdupq_n_s8(-128)));
    }
    static inline void store_bytes(int8_t *p, I v) {
        const int8x16_t bytes =
            vuzp1q_s8(vreinterpretq_s8_s16(vuzp1q_s16(vreinterpretq_s16_s32(v), vreinterpretq_s16_s32(v))),
                      vdupq_n_s8(0));
        const int32_t four = vgetq_lane_s32(vreinterpretq_s32_s8(bytes), 0);
        std::memcpy(p, &four, 4);
    }

    static inline X load_x(const uint8_t *block, uint32_t lane) {
        return vld1q_s8(reinterpret_cast<const int8_t *>(block) + size_t{lane} * 4);
    }
    static inline W load_w(const int8_t *weights) {
        int32_t four;
        std::memcpy(&four, weights, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
};

}  // namespace
}  // namespace edgebert
