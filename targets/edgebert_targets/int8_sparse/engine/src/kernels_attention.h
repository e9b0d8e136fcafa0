// Attention for any vector type V (kernels_impl.h).
#pragma once

#include <cmath>

#include "kernels_activations.h"
#include "kernels_products.h"

namespace edgebert {
namespace {

template <class V>
struct Attention {
    using F = typename V::F;
    using I = typename V::I;
    static constexpr uint32_t WIDTH = V::WIDTH;

    static inline F largest(const float *x, uint32_t channels, uint32_t lane) {
        F most = V::set(0.0f);
        for (uint32_t c = 0; c < channels; c++)
            most = V::max(most, V::abs(V::load(x + size_t{c} * TILE + lane)));
        return most;
    }

    static inline F inverse_step(F most) {
        F quotient = V::min(V::div(V::set(127.0f), most), V::set(LARGEST_INVERSE));
        return V::select_zero(most, V::set(0.0f), quotient);
    }

    static inline I symmetric(const float *at, F inverse) {
        I q = V::round(V::mul(V::load(at), inverse));
        return V::imax(V::imin(q, V::iset(127)), V::iset(-127));
    }

    static void quantize_queries(const float *x, uint32_t channels, uint32_t lanes, float factor,
                                 uint8_t *packed, float *scale) {
        for (uint32_t l = 0; l < lanes; l += WIDTH) {
            F most = largest(x, channels, l);
            F inverse = inverse_step(most);
            V::store(scale + l, V::mul(V::div(most, V::set(127.0f)), V::set(factor)));
            for (uint32_t c = 0; c < channels; c += 4) {
                I q[4];
                EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                    q[i] = V::iset(128);
                    if (c + i < channels)
                        q[i] = V::iadd(q[i], symmetric(x + size_t{c + i} * TILE + l, inverse));
                }
                V::store_unsigned(packed + size_t{c / 4} * V::BLOCK, l, q[0], q[1], q[2], q[3]);
            }
        }
    }

    static void quantize_keys(const float *x, uint32_t channels, uint32_t lanes, uint8_t *packed,
                              float *scale, int32_t *sum) {
        for (uint32_t l = 0; l < lanes; l += WIDTH) {
            F most = largest(x, channels, l);
            F inverse = inverse_step(most);
            V::store(scale + l, V::div(most, V::set(127.0f)));
            I total = V::iset(0);
            for (uint32_t c = 0; c < channels; c += 4) {
                I q[4];
                EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                    q[i] = V::iset(0);
                    if (c + i < channels) q[i] = symmetric(x + size_t{c + i} * TILE + l, inverse);
                    total = V::iadd(total, q[i]);
                }
                V::store_signed(packed + size_t{c / 4} * (TILE * 4) + l * 4, q[0], q[1], q[2], q[3]);
            }
            V::istore(sum + l, total);
        }
    }

    static void quantize_values(const float *x, size_t tile_stride, uint32_t first_slot, uint32_t length,
                                uint32_t channels, int8_t *values, size_t value_stride, float *scale,
                                int32_t *sum) {
        for (uint32_t c = 0; c < channels; c++) {
            const float *row_of = x + size_t{c} * TILE;
            F most_lanes = V::set(0.0f);
            float most = 0.0f;
            for (uint32_t t = 0; t < length; t += WIDTH) {
                const uint32_t slot = first_slot + t;
                const float *at = row_of + slot / TILE * tile_stride + slot % TILE;
                if (length - t >= WIDTH) {
                    most_lanes = V::max(most_lanes, V::abs(V::load(at)));
                } else {
                    for (uint32_t i = 0; i < length - t; i++)
                        most = std::fabs(at[i]) > most ? std::fabs(at[i]) : most;
                }
            }
            const float most_of_lanes = V::largest_lane(most_lanes);
            most = most_of_lanes > most ? most_of_lanes : most;
            scale[c] = most / 127.0f;
            F inverse = inverse_step(V::set(most));
            int8_t *row = values + size_t{c} * value_stride;
            I total = V::iset(0);
            for (uint32_t t = 0; t < length; t += WIDTH) {
                uint32_t slot = first_slot + t;
                I q = symmetric(row_of + slot / TILE * tile_stride + slot % TILE, inverse);
                if (length - t < WIDTH) q = V::first_lanes(q, length - t);
                total = V::iadd(total, q);
                V::store_bytes(row + t, q);
            }
            // only packed forms with a shifted zero need the sum
            sum[c] = V::SHIFT == 0 ? 0 : V::sum_lanes(total);
        }
    }

    // acc[i][j] += key i of 4 neighbours times the queries of vector j.
    template <uint32_t N>
    EB_INLINE static void key_products(I (&acc)[4][N], const int8_t *keys, const uint8_t *queries,
                                       uint32_t lane, uint32_t blocks) {
        const int8_t *const row[4] = {keys, keys + 4, keys + 8, keys + 12};
        Products<V>::template add<4, N>(acc, row, TILE * 4, queries, lane, blocks);
    }

    template <uint32_t N>
    static void attend_lanes(const AttentionHead &given, uint32_t lane) {
        const AttentionHead head = given;  // a copy that no store can change
        const uint32_t blocks = (head.channels + 3) / 4;
        const uint32_t length4 = (head.length + 3) / 4 * 4;
        F most[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) most[j] = V::set(-3.0e38f);
        for (uint32_t u = 0; u < length4; u += 4) {
            const uint32_t slot = head.first_slot + u;
            const int8_t *keys =
                reinterpret_cast<const int8_t *>(head.keys) + slot / TILE * head.key_stride + slot % TILE * 4;
            I acc[4][N];
            EB_UNROLL for (uint32_t i = 0; i < 4; i++) EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[i][j] =
                V::iset(-V::OFFSET * head.key_sum[slot + i]);
            key_products<N>(acc, keys, head.queries, lane, blocks);
            EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                if (u + i >= head.length) continue;
                F scale = V::set(head.key_scale[slot + i]);
                EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                    F e = V::mul(V::to_float(acc[i][j]), scale);
                    most[j] = V::max(most[j], e);
                    V::store(head.scores + size_t{u + i} * TILE + lane + j * WIDTH, e);
                }
            }
        }
        F scale[N];
        I total[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            scale[j] = V::load(head.query_scale + lane + j * WIDTH);
            total[j] = V::iset(0);
        }
        for (uint32_t u = 0; u < head.length; u += 4) {
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                I p[4];
                EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                    p[i] = V::iset(0);
                    if (u + i < head.length) {
                        F e = V::load(head.scores + size_t{u + i} * TILE + lane + j * WIDTH);
                        // subtracting first keeps every exponent at or below 0
                        p[i] = Steps<V>::exp2_byte(V::mul(V::sub(e, most[j]), scale[j]));
                    }
                    total[j] = V::iadd(total[j], p[i]);
                }
                uint8_t *block = head.probabilities + size_t{u / 4} * V::BLOCK;
                if constexpr (HasSaturated<V>::value)
                    V::store_saturated(block, lane + j * WIDTH, p[0], p[1], p[2], p[3], V::iset(0));
                else
                    V::store_unsigned(block, lane + j * WIDTH, p[0], p[1], p[2], p[3]);
            }
        }
        F inverse[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) inverse[j] = V::div(V::set(1.0f), V::to_float(total[j]));
        uint32_t c = 0;
        for (; c + 4 <= head.channels; c += 4) weigh<4, N>(head, c, lane, length4 / 4, inverse);
        for (; c < head.channels; c++) weigh<1, N>(head, c, lane, length4 / 4, inverse);
    }

    // Channels [c, c + R) of the weighted sum of the values.
    template <uint32_t R, uint32_t N>
    static inline void weigh(const AttentionHead &head, uint32_t c, uint32_t lane, uint32_t blocks,
                             const F (&inverse)[N]) {
        I acc[R][N];
        const int8_t *row[R];
        EB_UNROLL for (uint32_t i = 0; i < R; i++) {
            row[i] = head.values + size_t{c + i} * head.value_stride;
            EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[i][j] = V::iset(V::SHIFT * head.value_sum[c + i]);
        }
        Products<V>::template add<R, N>(acc, row, 4, head.probabilities, lane, blocks);
        EB_UNROLL for (uint32_t i = 0; i < R; i++) {
            F scale = V::set(head.value_scale[c + i]);
            EB_UNROLL for (uint32_t j = 0; j < N; j++)
                V::store(head.out + size_t{c + i} * TILE + lane + j * WIDTH,
                         V::mul(V::mul(V::to_float(acc[i][j]), inverse[j]), scale));
        }
    }

    static void attend(const AttentionHead &head) {
        constexpr uint32_t N = V::DENSE_VECTORS;
        uint32_t l = head.lane_begin;
        for (; l + N * WIDTH <= head.lane_end; l += N * WIDTH) attend_lanes<N>(head, l);
        if constexpr (N > 2 && GROUP % (N * WIDTH) != 0)
            for (; l + 2 * WIDTH <= head.lane_end; l += 2 * WIDTH) attend_lanes<2>(head, l);
        if constexpr (GROUP % (N * WIDTH) != 0)
            for (; l < head.lane_end; l += WIDTH) attend_lanes<1>(head, l);
    }
};

}  // namespace
}  // namespace edgebert
