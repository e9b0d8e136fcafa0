// avx-vnni: 8 lanes a vector, vpdpbusd on u8 activations and s8 weights, without AVX-512.
#include "lanes256.h"

namespace edgebert {
namespace {

struct AvxVnni : Lanes256 {
    using X = __m256i;
    using W = __m256i;
    static constexpr uint32_t DENSE_ROWS = 4, DENSE_VECTORS = 2, SPARSE_VECTORS = 8;
    static constexpr uint32_t SPARSE_SUMS = 1;
    static constexpr size_t BLOCK = TILE * 4;
    static constexpr int32_t SHIFT = 0, OFFSET = 128;

    static inline void store_unsigned(uint8_t *block, uint32_t lane, I a, I b, I c, I d) {
        istore(block + size_t{lane} * 4, interleave(a, b, c, d));
    }
    struct Saturates;
    // Packing with saturation clamps; it interleaves 4 lanes at a time, which the shuffle undoes.
    static inline void store_saturated(uint8_t *block, uint32_t lane, I a, I b, I c, I d, I zero) {
        const I z = _mm256_packs_epi32(zero, zero);
        const I low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), z);
        const I high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), z);
        const I order =
            _mm256_broadcastsi128_si256(_mm_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703));
        istore(block + size_t{lane} * 4, _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order));
    }
    static inline X load_x(const uint8_t *block, uint32_t lane) { return iload(block + size_t{lane} * 4); }
    static inline W load_w(const int8_t *weights) {
        int32_t four;
        std::memcpy(&four, weights, 4);
        return _mm256_set1_epi32(four);
    }
    // As assembly because gcc 12 copies the accumulator around the intrinsic.
    static inline void dot(I &acc, X x, W w) {
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    }

    // Loads are the limit, two a cycle: the weights of 4 blocks are one.
    template <uint32_t N>
    EB_INLINE static void add_four(I (&acc)[N], I (&)[N], const uint8_t *x, uint64_t numbers,
                                   const int8_t *values) {
        const I w = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(values)));
        add_block<N>(acc, x + (numbers & 0xff) * BLOCK, _mm256_shuffle_epi32(w, 0x00));
        add_block<N>(acc, x + (numbers >> 8 & 0xff) * BLOCK, _mm256_shuffle_epi32(w, 0x55));
        add_block<N>(acc, x + (numbers >> 16 & 0xff) * BLOCK, _mm256_shuffle_epi32(w, 0xaa));
        add_block<N>(acc, x + (numbers >> 24 & 0xff) * BLOCK, _mm256_shuffle_epi32(w, 0xff));
    }
    template <uint32_t N>
    EB_INLINE static void add_block(I (&acc)[N], const uint8_t *at, W w) {
        EB_UNROLL for (uint32_t j = 0; j < N; j++) dot(acc[j], iload(at + size_t{j} * 32), w);
    }
};

}  // namespace

const Kernels *kernels_avx_vnni() { return kernel_table<AvxVnni>("avx-vnni"); }

}  // namespace edgebert
