// avx512-vnni: 16 lanes a vector, vpdpbusd on u8 activations and s8 weights.
#include <immintrin.h>

// gcc 12 takes the "undefined" operand inside its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "../../kernels_impl.h"

namespace edgebert {
namespace {

struct Avx512Vnni {
    using F = __m512;
    using I = __m512i;
    using X = __m512i;
    using W = __m512i;
    static constexpr uint32_t WIDTH = 16, DENSE_ROWS = 4, DENSE_VECTORS = 4, SPARSE_VECTORS = 4;
    // Two sets of sums, because one waits for its own latency: 4 vectors at 4 cycles each.
    static constexpr uint32_t SPARSE_SUMS = 2;
    static constexpr size_t BLOCK = TILE * 4;
    static constexpr int32_t SHIFT = 0, OFFSET = 128;

    static inline F set(float v) { return _mm512_set1_ps(v); }
    static inline F load(const float *p) { return _mm512_load_ps(p); }
    static inline void store(float *p, F v) { _mm512_store_ps(p, v); }
    static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
    static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
    static inline F sqrt(F a) { return _mm512_sqrt_ps(a); }
    static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
    static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
    static inline F abs(F a) { return _mm512_abs_ps(a); }
    static inline F select_zero(F test, F yes, F no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_EQ_OQ), no, yes);
    }
    static inline F select_positive(F test, F yes, F no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_GT_OQ), no, yes);
    }
    static inline float largest_lane(F a) { return _mm512_reduce_max_ps(a); }
    static inline int32_t sum_lanes(I a) { return _mm512_reduce_add_epi32(a); }
    static inline I round(F a) { return _mm512_cvtps_epi32(a); }
    static inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static inline I as_int(F a) { return _mm512_castps_si512(a); }
    static inline F as_float(I a) { return _mm512_castsi512_ps(a); }

    static inline I iset(int32_t v) { return _mm512_set1_epi32(v); }
    static inline I iload(const int32_t *p) { return _mm512_load_si512(p); }
    static inline void istore(int32_t *p, I v) { _mm512_store_si512(p, v); }
    static inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
    static inline I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
    static inline I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
    static inline I imin(I a, I b) { return _mm512_min_epi32(a, b); }
    static inline I imax(I a, I b) { return _mm512_max_epi32(a, b); }
    template <int N>
    static inline I shift_left(I a) {
        return _mm512_slli_epi32(a, N);
    }
    static inline I first_lanes(I a, uint32_t count) {
        return _mm512_maskz_mov_epi32(static_cast<__mmask16>((1u << count) - 1), a);
    }

    static inline void store_unsigned(uint8_t *block, uint32_t lane, I a, I b, I c, I d) {
        I low = _mm512_or_si512(a, _mm512_slli_epi32(b, 8));
        I high = _mm512_or_si512(_mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
        _mm512_store_si512(block + size_t{lane} * 4, _mm512_or_si512(low, high));
    }
    static inline void store_signed(uint8_t *at, I a, I b, I c, I d) {
        const I byte = _mm512_set1_epi32(255);
        store_unsigned(at, 0, _mm512_and_si512(a, byte), _mm512_and_si512(b, byte), _mm512_and_si512(c, byte),
                       d);
    }
    struct Saturates;
    // Packing with saturation clamps; it interleaves 4 lanes at a time, which the shuffle undoes.
    static inline void store_saturated(uint8_t *block, uint32_t lane, I a, I b, I c, I d, I zero) {
        const __m512i z = _mm512_packs_epi32(zero, zero);
        const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), z);
        const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), z);
        const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
        _mm512_store_si512(block + size_t{lane} * 4,
                           _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order));
    }
    static inline void store_bytes(int8_t *p, I v) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(v));
    }

    static inline X load_x(const uint8_t *block, uint32_t lane) {
        return _mm512_load_si512(block + size_t{lane} * 4);
    }
    static inline W load_w(const int8_t *weights) {
        int32_t four;
        std::memcpy(&four, weights, 4);
        return _mm512_set1_epi32(four);
    }
    // As assembly because gcc 12 copies the accumulator around the intrinsic.
    static inline void dot(I &acc, X x, W w) { __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w)); }

    // Loads are the limit, two a cycle: the weights of 4 blocks are one.
    template <uint32_t N>
    EB_INLINE static void add_four(I (&even)[N], I (&odd)[N], const uint8_t *x, uint64_t numbers,
                                   const int8_t *values) {
        const __m512i w = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(values)));
        add_block<N>(even, x + (numbers & 0xff) * BLOCK, _mm512_shuffle_epi32(w, _MM_PERM_AAAA));
        add_block<N>(odd, x + (numbers >> 8 & 0xff) * BLOCK, _mm512_shuffle_epi32(w, _MM_PERM_BBBB));
        add_block<N>(even, x + (numbers >> 16 & 0xff) * BLOCK, _mm512_shuffle_epi32(w, _MM_PERM_CCCC));
        add_block<N>(odd, x + (numbers >> 24 & 0xff) * BLOCK, _mm512_shuffle_epi32(w, _MM_PERM_DDDD));
    }
    template <uint32_t N>
    EB_INLINE static void add_block(I (&acc)[N], const uint8_t *at, W w) {
        EB_UNROLL for (uint32_t j = 0; j < N; j++) dot(acc[j], _mm512_load_si512(at + size_t{j} * 64), w);
    }
};

}  // namespace

const Kernels *kernels_avx512_vnni() { return kernel_table<Avx512Vnni>("avx512-vnni"); }

}  // namespace edgebert
