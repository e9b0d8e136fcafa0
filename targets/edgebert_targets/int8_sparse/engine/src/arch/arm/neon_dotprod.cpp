// neon-dotprod: sdot on s8 activations (q - 128) and s8 weights.
#include "neon_vector.h"

namespace edgebert {
namespace {

// acc[j] += lane LANE of w, 4 weights, times the packed activations of 8 or 4 vectors at `at`. As assembly
// because compilers load one register at a time and use it at once.
template <int LANE>
EB_INLINE const int8_t *dot_8(int32x4_t *acc, const int8_t *at, int8x16_t w) {
    __asm__(
        "ld1 {v24.16b-v27.16b}, [%[at]], #64\n\t"
        "ld1 {v28.16b-v31.16b}, [%[at]], #64\n\t"
        "sdot %[a].4s, v24.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[b].4s, v25.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[c].4s, v26.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[d].4s, v27.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[e].4s, v28.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[f].4s, v29.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[g].4s, v30.16b, %[w].4b[%c[lane]]\n\t"
        "sdot %[h].4s, v31.16b, %[w].4b[%c[lane]]"
        : [a] "+w"(acc[0]), [b] "+w"(acc[1]), [c] "+w"(acc[2]), [d] "+w"(acc[3]), [e] "+w"(acc[4]),
          [f] "+w"(acc[5]), [g] "+w"(acc[6]), [h] "+w"(acc[7]), [at] "+r"(at)
        : [w] "w"(w), [lane] "i"(LANE), "m"(*reinterpret_cast<const int8_t(*)[128]>(at))
        : "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    return at;
}

template <int LANE>
EB_INLINE void dot_4(int32x4_t *acc, const int8_t *at, int8x16_t w) {
    EB_UNROLL for (uint32_t j = 0; j < 4; j++) acc[j] =
        vdotq_laneq_s32(acc[j], vld1q_s8(at + j * 16), w, LANE);
}

template <int LANE, uint32_t N>
EB_INLINE void dot_lane(int32x4_t (&acc)[N], const int8_t *at, int8x16_t w) {
    EB_UNROLL for (uint32_t j = 0; j + 8 <= N; j += 8) at = dot_8<LANE>(acc + j, at, w);
    if constexpr (N % 8 == 4) dot_4<LANE>(acc + N - 4, at, w);
}

struct Neon : NeonVector {
    static inline void dot(I &acc, X x, W w) { acc = vdotq_s32(acc, x, w); }

    // Four blocks' weights are one load.
    template <uint32_t N>
    EB_INLINE static void sparse_row(I (&acc)[N], const int8_t *values, const uint8_t *index, uint32_t count,
                                     const uint8_t *packed, uint32_t lane) {
        const int8_t *x = reinterpret_cast<const int8_t *>(packed) + size_t{lane} * 4;
        const uint8_t *fours = index + count / 4 * 4, *end = index + count;
        for (; index != fours; index += 4, values += 16) {
            const W w = vld1q_s8(values);
            dot_lane<0>(acc, x + size_t{index[0]} * BLOCK, w);
            dot_lane<1>(acc, x + size_t{index[1]} * BLOCK, w);
            dot_lane<2>(acc, x + size_t{index[2]} * BLOCK, w);
            dot_lane<3>(acc, x + size_t{index[3]} * BLOCK, w);
        }
        for (; index != end; index++, values += 4)
            dot_lane<0>(acc, x + size_t{*index} * BLOCK, load_w(values));
    }
};

}  // namespace
}  // namespace edgebert

#include "neon_attention.h"
#include "neon_linear.h"

namespace edgebert {
namespace {

// Rows of consecutive blocks: four blocks' weights are one load.
template <>
template <uint32_t R, uint32_t N>
EB_INLINE void Products<Neon>::add(int32x4_t (&acc)[R][N], const int8_t *const (&row)[R], size_t,
                                   const uint8_t *x, uint32_t lane, uint32_t blocks) {
    const int8_t *at = reinterpret_cast<const int8_t *>(x) + size_t{lane} * 4;
    uint32_t k = 0;
    for (; k + 4 <= blocks; k += 4) {
        int8x16_t w[R];
        EB_UNROLL for (uint32_t i = 0; i < R; i++) w[i] = vld1q_s8(row[i] + size_t{k} * 4);
        EB_UNROLL for (uint32_t i = 0; i < R; i++) dot_lane<0>(acc[i], at, w[i]);
        EB_UNROLL for (uint32_t i = 0; i < R; i++) dot_lane<1>(acc[i], at + Neon::BLOCK, w[i]);
        EB_UNROLL for (uint32_t i = 0; i < R; i++) dot_lane<2>(acc[i], at + 2 * Neon::BLOCK, w[i]);
        EB_UNROLL for (uint32_t i = 0; i < R; i++) dot_lane<3>(acc[i], at + 3 * Neon::BLOCK, w[i]);
        at += 4 * Neon::BLOCK;
    }
    for (; k < blocks; k++, at += Neon::BLOCK)
        EB_UNROLL for (uint32_t i = 0; i < R; i++)
            dot_lane<0>(acc[i], at, Neon::load_w(row[i] + size_t{k} * 4));
}

// Four neighbouring keys are one load.
template <>
template <uint32_t N>
EB_INLINE void Attention<Neon>::key_products(int32x4_t (&acc)[4][N], const int8_t *keys,
                                             const uint8_t *queries, uint32_t lane, uint32_t blocks) {
    const int8_t *at = reinterpret_cast<const int8_t *>(queries) + size_t{lane} * 4;
    for (uint32_t k = 0; k < blocks; k++, at += Neon::BLOCK, keys += TILE * 4) {
        const int8x16_t w = vld1q_s8(keys);
        dot_lane<0>(acc[0], at, w);
        dot_lane<1>(acc[1], at, w);
        dot_lane<2>(acc[2], at, w);
        dot_lane<3>(acc[3], at, w);
    }
}

}  // namespace

const Kernels *kernels_neon_dotprod() { return kernel_table<Neon>("neon-dotprod"); }

}  // namespace edgebert
