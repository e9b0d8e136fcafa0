// neon: CPUs without sdot. Two products of 8 bits fit in 16 bits (2 * 128 * 127 < 2^15); neighbours' sums are
// then added to 32 bits.
#include "neon_vector.h"

namespace edgebert {
namespace {

// Sums of one vector of 4 lanes: lanes 0 and 1, and 2 and 3, each split in two by pairs of channels.
struct SplitSum {
    int32x4_t low, high;

    EB_INLINE SplitSum() : low(vdupq_n_s32(0)), high(vdupq_n_s32(0)) {}
    EB_INLINE void add(int8x16_t x, int8x16_t w) {
        low = vpadalq_s16(low, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
        high = vpadalq_s16(high, vmull_high_s8(x, w));
    }
    EB_INLINE void add(int8x16_t x, int8x16_t w, int8x16_t next_x, int8x16_t next_w) {
        const int16x8_t l = vmull_s8(vget_low_s8(x), vget_low_s8(w)), h = vmull_high_s8(x, w);
        low = vpadalq_s16(low, vmlal_s8(l, vget_low_s8(next_x), vget_low_s8(next_w)));
        high = vpadalq_s16(high, vmlal_high_s8(h, next_x, next_w));
    }
    EB_INLINE int32x4_t sum() const { return vpaddq_s32(low, high); }
};

struct Neon : NeonVector {
    EB_INLINE static void dot(I &acc, X x, W w) {
        SplitSum split;
        split.add(x, w);
        acc = vaddq_s32(acc, split.sum());
    }

    template <uint32_t N>
    EB_INLINE static void sparse_row(I (&acc)[N], const int8_t *values, const uint8_t *index, uint32_t count,
                                     const uint8_t *packed, uint32_t lane) {
        const int8_t *x = reinterpret_cast<const int8_t *>(packed) + size_t{lane} * 4;
        // split sums of more than 8 vectors do not fit in the registers
        constexpr uint32_t PART = N % 8 == 0 ? 8 : 4;
        EB_UNROLL for (uint32_t part = 0; part < N; part += PART)
            sparse_part<PART>(acc + part, values, index, count, x + part * 16);
    }

    template <uint32_t N>
    EB_INLINE static void sparse_part(I *acc, const int8_t *values, const uint8_t *index, uint32_t count,
                                      const int8_t *x) {
        SplitSum split[N];
        for (; count >= 2; count -= 2, index += 2, values += 8) {
            const int8_t *at = x + size_t{index[0]} * BLOCK, *next = x + size_t{index[1]} * BLOCK;
            const W w = load_w(values), next_w = load_w(values + 4);
            EB_UNROLL for (uint32_t j = 0; j < N; j++) split[j].add(vld1q_s8(at + j * 16), w,
                                                                    vld1q_s8(next + j * 16), next_w);
        }
        if (count != 0) {
            const int8_t *at = x + size_t{*index} * BLOCK;
            const W w = load_w(values);
            EB_UNROLL for (uint32_t j = 0; j < N; j++) split[j].add(vld1q_s8(at + j * 16), w);
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[j] = vaddq_s32(acc[j], split[j].sum());
    }

    // Rows 0 and 1, or row 0 alone, times a group of lanes.
    template <uint32_t R>
    EB_INLINE static void rows_by_group(I *acc, const int8_t *const *row, size_t stride, const int8_t *at,
                                        uint32_t blocks) {
        SplitSum split[R][4];
        uint32_t k = 0;
        for (; k + 2 <= blocks; k += 2, at += 2 * BLOCK) {
            W w[R], next_w[R];
            EB_UNROLL for (uint32_t i = 0; i < R; i++) {
                w[i] = load_w(row[i] + k * stride);
                next_w[i] = load_w(row[i] + (k + 1) * stride);
            }
            EB_UNROLL for (uint32_t j = 0; j < 4; j++) {
                const X x = vld1q_s8(at + j * 16), next_x = vld1q_s8(at + BLOCK + j * 16);
                EB_UNROLL for (uint32_t i = 0; i < R; i++) split[i][j].add(x, w[i], next_x, next_w[i]);
            }
        }
        if (k < blocks) {
            EB_UNROLL for (uint32_t i = 0; i < R; i++) {
                const W w = load_w(row[i] + k * stride);
                EB_UNROLL for (uint32_t j = 0; j < 4; j++) split[i][j].add(vld1q_s8(at + j * 16), w);
            }
        }
        EB_UNROLL for (uint32_t i = 0; i < R; i++) EB_UNROLL for (uint32_t j = 0; j < 4; j++) acc[i * 4 + j] =
            vaddq_s32(acc[i * 4 + j], split[i][j].sum());
    }
};

}  // namespace
}  // namespace edgebert

#include "neon_attention.h"
#include "neon_linear.h"

namespace edgebert {
namespace {

template <>
template <uint32_t R, uint32_t N>
EB_INLINE void Products<Neon>::add(int32x4_t (&acc)[R][N], const int8_t *const (&row)[R], size_t block_stride,
                                   const uint8_t *x, uint32_t lane, uint32_t blocks) {
    static_assert(N == 4, "a group");
    const int8_t *at = reinterpret_cast<const int8_t *>(x) + size_t{lane} * 4;
    constexpr uint32_t PART = R % 2 == 0 ? 2 : 1;
    EB_UNROLL for (uint32_t i = 0; i < R; i += PART)
        Neon::rows_by_group<PART>(acc[i], row + i, block_stride, at, blocks);
}

}  // namespace

const Kernels *kernels_neon() { return kernel_table<Neon>("neon"); }

}  // namespace edgebert
