// avx2: 8 lanes a vector, no byte products that keep all bits: activations are 16-bit numbers for vpmaddwd.
//
// Packed: [block][pair of channels][lane][2] int16.
#include "lanes256.h"

namespace edgebert {
namespace {

struct Avx2 : Lanes256 {
    // 16-bit weights for all lanes: of channels 0 and 1, of channels 2 and 3.
    struct W {
        __m256i first, second;
    };
    using X = __m256i;
    static constexpr uint32_t DENSE_ROWS = 2, DENSE_VECTORS = 4, SPARSE_VECTORS = 4;
    static constexpr uint32_t SPARSE_SUMS = 1;
    static constexpr size_t PAIR = TILE * 4, BLOCK = PAIR * 2;
    static constexpr int32_t SHIFT = 0, OFFSET = 128;

    static inline void store_unsigned(uint8_t *block, uint32_t lane, I a, I b, I c, I d) {
        uint8_t *at = block + size_t{lane} * 4;
        istore(at, _mm256_or_si256(a, _mm256_slli_epi32(b, 16)));
        istore(at + PAIR, _mm256_or_si256(c, _mm256_slli_epi32(d, 16)));
    }
    struct Saturates;
    static inline void store_saturated(uint8_t *block, uint32_t lane, I a, I b, I c, I d, I zero) {
        const I z = _mm256_packs_epi32(zero, zero);
        uint8_t *at = block + size_t{lane} * 4;
        istore(at, clamped_pairs(_mm256_adds_epi16(_mm256_packs_epi32(a, b), z)));
        istore(at + PAIR, clamped_pairs(_mm256_adds_epi16(_mm256_packs_epi32(c, d), z)));
    }
    // From 4 lanes' numbers of one channel, then of the other, to pairs; each within [0, 255].
    static inline I clamped_pairs(I words) {
        const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
        words = _mm256_min_epi16(_mm256_max_epi16(words, _mm256_setzero_si256()), _mm256_set1_epi16(255));
        return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order));
    }
    static inline W load_w(const int8_t *weights) {
        int32_t four;
        std::memcpy(&four, weights, 4);
        const I words = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
        return {_mm256_shuffle_epi32(words, 0xa0), _mm256_shuffle_epi32(words, 0xf5)};
    }

    template <uint32_t N>
    EB_INLINE static void add_four(I (&acc)[N], I (&)[N], const uint8_t *x, uint64_t numbers,
                                   const int8_t *values) {
        const TwoBlocks low(values), high(values + 8);
        add_block<N>(acc, x + (numbers & 0xff) * BLOCK, low.first);
        add_block<N>(acc, x + (numbers >> 8 & 0xff) * BLOCK, low.second);
        add_block<N>(acc, x + (numbers >> 16 & 0xff) * BLOCK, high.first);
        add_block<N>(acc, x + (numbers >> 24 & 0xff) * BLOCK, high.second);
    }

    // Eight weights, widened at once.
    struct TwoBlocks {
        EB_INLINE explicit TwoBlocks(const int8_t *weights) {
            int64_t eight;
            std::memcpy(&eight, weights, 8);
            const I words = _mm256_cvtepi8_epi16(_mm_set1_epi64x(eight));
            first = {_mm256_shuffle_epi32(words, 0x00), _mm256_shuffle_epi32(words, 0x55)};
            second = {_mm256_shuffle_epi32(words, 0xaa), _mm256_shuffle_epi32(words, 0xff)};
        }
        W first, second;
    };

    // Of neighbouring blocks.
    template <uint32_t N>
    EB_INLINE static void add_two_blocks(I (&acc)[N], const uint8_t *at, const int8_t *weights) {
        const TwoBlocks w(weights);
        add_block(acc, at, w.first);
        add_block(acc, at + BLOCK, w.second);
    }

    template <uint32_t N>
    EB_INLINE static void add_block(I (&acc)[N], const uint8_t *at, const W &w) {
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            add_products(acc[j], at + size_t{j} * 32, w.first);
            add_products(acc[j], at + PAIR + size_t{j} * 32, w.second);
        }
    }
    // As assembly because gcc 12 copies the accumulator around the intrinsics.
    static inline void add_products(I &acc, const uint8_t *x, I w) {
        I products;
        __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0"
                : "+x"(acc), "=&x"(products)
                : "m"(*reinterpret_cast<const I *>(x)), "x"(w));
    }
};

// Two rows at a time, each with the weights of two blocks widened at once.
template <>
template <uint32_t R, uint32_t N>
inline void Products<Avx2>::add(__m256i (&acc)[R][N], const int8_t *const (&row)[R], size_t, const uint8_t *x,
                                uint32_t lane, uint32_t blocks) {
    static_assert(R == 1 || R % 2 == 0, "rows come in pairs");
    for (uint32_t i = 0; i < R; i += 2) {
        const uint8_t *at = x + size_t{lane} * 4;
        const int8_t *first_row = row[i], *second_row = row[R == 1 ? 0 : i + 1];
        __m256i first[N], second[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) first[j] = acc[i][j],
                                                   second[j] = acc[R == 1 ? 0 : i + 1][j];
        uint32_t k = 0;
        for (; k + 2 <= blocks; k += 2, at += 2 * Avx2::BLOCK) {
            Avx2::add_two_blocks(first, at, first_row + size_t{k} * 4);
            if (R != 1) Avx2::add_two_blocks(second, at, second_row + size_t{k} * 4);
        }
        if (k < blocks) {
            Avx2::add_block(first, at, Avx2::load_w(first_row + size_t{k} * 4));
            if (R != 1) Avx2::add_block(second, at, Avx2::load_w(second_row + size_t{k} * 4));
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            acc[i][j] = first[j];
            if (R != 1) acc[i + 1][j] = second[j];
        }
    }
}

// The weights of neighbours are neighbours.
template <>
template <uint32_t N>
inline void Attention<Avx2>::key_products(__m256i (&acc)[4][N], const int8_t *keys, const uint8_t *queries,
                                          uint32_t lane, uint32_t blocks) {
    for (uint32_t i = 0; i < 4; i += 2) {
        const uint8_t *at = queries + size_t{lane} * 4;
        __m256i first[N], second[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) first[j] = acc[i][j], second[j] = acc[i + 1][j];
        for (uint32_t k = 0; k < blocks; k++, at += Avx2::BLOCK) {
            const Avx2::TwoBlocks w(keys + size_t{k} * (TILE * 4) + i * 4);
            Avx2::add_block(first, at, w.first);
            Avx2::add_block(second, at, w.second);
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[i][j] = first[j], acc[i + 1][j] = second[j];
    }
}

}  // namespace

const Kernels *kernels_avx2() { return kernel_table<Avx2>("avx2"); }

}  // namespace edgebert
