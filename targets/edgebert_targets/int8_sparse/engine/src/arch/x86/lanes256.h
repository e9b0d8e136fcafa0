// The float and integer steps of a vector type V (kernels_impl.h) for 8 lanes in a ymm register.
#pragma once

#include <immintrin.h>

#include "../../kernels_impl.h"

namespace edgebert {
namespace {

struct Lanes256 {
    using F = __m256;
    using I = __m256i;
    static constexpr uint32_t WIDTH = 8;

    static inline F set(float v) { return _mm256_set1_ps(v); }
    static inline F load(const float *p) { return _mm256_load_ps(p); }
    static inline void store(float *p, F v) { _mm256_store_ps(p, v); }
    static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
    static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
    static inline F sqrt(F a) { return _mm256_sqrt_ps(a); }
    static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
    static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
    static inline F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static inline F select_zero(F test, F yes, F no) {
        return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_EQ_OQ));
    }
    static inline F select_positive(F test, F yes, F no) {
        return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_GT_OQ));
    }
    static inline float largest_lane(F a) {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    static inline int32_t sum_lanes(I a) {
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
    }
    static inline I round(F a) { return _mm256_cvtps_epi32(a); }
    static inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
    static inline I as_int(F a) { return _mm256_castps_si256(a); }
    static inline F as_float(I a) { return _mm256_castsi256_ps(a); }

    static inline I iset(int32_t v) { return _mm256_set1_epi32(v); }
    static inline I iload(const void *p) { return _mm256_load_si256(static_cast<const __m256i *>(p)); }
    static inline void istore(void *p, I v) { _mm256_store_si256(static_cast<__m256i *>(p), v); }
    static inline I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
    static inline I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
    static inline I imul(I a, I b) { return _mm256_mullo_epi32(a, b); }
    static inline I imin(I a, I b) { return _mm256_min_epi32(a, b); }
    static inline I imax(I a, I b) { return _mm256_max_epi32(a, b); }
    template <int N>
    static inline I shift_left(I a) {
        return _mm256_slli_epi32(a, N);
    }
    static inline I first_lanes(I a, uint32_t count) {
        const I lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_and_si256(a, _mm256_cmpgt_epi32(iset(static_cast<int32_t>(count)), lane));
    }

    // Bytes a, b, c, d of each lane, in this order.
    static inline I interleave(I a, I b, I c, I d) {
        const I low = _mm256_or_si256(a, _mm256_slli_epi32(b, 8));
        const I high = _mm256_or_si256(_mm256_slli_epi32(c, 16), _mm256_slli_epi32(d, 24));
        return _mm256_or_si256(low, high);
    }
    static inline void store_signed(uint8_t *at, I a, I b, I c, I d) {
        const I byte = iset(255);
        istore(at, interleave(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte), _mm256_and_si256(c, byte),
                              d));
    }
    static inline void store_bytes(int8_t *p, I v) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(words, words));
    }
};

}  // namespace
}  // namespace edgebert
