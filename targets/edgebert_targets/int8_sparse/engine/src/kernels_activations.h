// Activation functions, LayerNorm and the quantisation of activations for any vector type V (kernels_impl.h).
#pragma once

#include <type_traits>

#include "kernels.h"
#include "vector_steps.h"

namespace edgebert {
namespace {

// Whether V has store_saturated: q + zero of four channels, clamped to a byte, faster than by single steps.
// It says so by a type named Saturates.
template <class V, class = void>
struct HasSaturated : std::false_type {};
template <class V>
struct HasSaturated<V, std::void_t<typename V::Saturates>> : std::true_type {};

template <class V>
struct Activations {
    using F = typename V::F;
    using I = typename V::I;
    static constexpr uint32_t WIDTH = V::WIDTH;

    static void activate(Activation activation, float *x, uint32_t rows, uint32_t lanes) {
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t l = 0; l < lanes; l += WIDTH) {
                float *at = x + size_t{r} * TILE + l;
                F v = V::load(at);
                switch (activation) {
                    case Activation::gelu:
                        v = Steps<V>::gelu(v);
                        break;
                    case Activation::gelu_tanh:
                        v = Steps<V>::gelu_tanh(v);
                        break;
                    case Activation::relu:
                        v = V::max(v, V::set(0.0f));
                        break;
                    case Activation::tanh:
                        v = Steps<V>::tanh(v);
                        break;
                }
                V::store(at, v);
            }
        }
    }

    // --- LayerNorm ---

    // With QUANTIZE also what `quantize` does to the result, whose extremes are at hand.
    template <uint32_t N, bool QUANTIZE>
    static inline void normalize_lanes(float *x, const Norm &norm, uint32_t rows, uint8_t *packed,
                                       TokenScales *scales, uint32_t lane) {
        F sum[N], square[N], mean[N], inverse[N], low[N], high[N];
        F count = V::set(static_cast<float>(rows));
        EB_UNROLL for (uint32_t j = 0; j < N; j++) { sum[j] = square[j] = low[j] = high[j] = V::set(0.0f); }
        for (uint32_t r = 0; r < rows; r++) {
            const float *at = x + size_t{r} * TILE + lane;
            EB_UNROLL for (uint32_t j = 0; j < N; j++) { sum[j] = V::add(sum[j], V::load(at + j * WIDTH)); }
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) { mean[j] = V::div(sum[j], count); }
        for (uint32_t r = 0; r < rows; r++) {
            const float *at = x + size_t{r} * TILE + lane;
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                F d = V::sub(V::load(at + j * WIDTH), mean[j]);
                square[j] = V::fma(d, d, square[j]);
            }
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            F variance = V::add(V::div(square[j], count), V::set(norm.eps));
            inverse[j] = V::div(V::set(1.0f), V::sqrt(variance));
        }
        const float *weight = norm.weight.data(), *bias = norm.bias.data();
        for (uint32_t r = 0; r < rows; r++) {
            F w = V::set(weight[r]), b = V::set(bias[r]);
            float *at = x + size_t{r} * TILE + lane;
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                F y = V::fma(V::mul(V::sub(V::load(at + j * WIDTH), mean[j]), inverse[j]), w, b);
                V::store(at + j * WIDTH, y);
                if (QUANTIZE) {
                    low[j] = V::min(low[j], y);
                    high[j] = V::max(high[j], y);
                }
            }
        }
        if (QUANTIZE) quantize_between<N>(low, high, x, rows, packed, scales, lane);
    }

    template <bool QUANTIZE>
    static void normalize_tile(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin,
                               uint32_t lane_end, uint8_t *packed, TokenScales *scales) {
        constexpr uint32_t most = TILE / WIDTH < 4 ? TILE / WIDTH : 4;
        uint32_t l = lane_begin;
        for (; l + most * WIDTH <= lane_end; l += most * WIDTH)
            normalize_lanes<most, QUANTIZE>(x, norm, rows, packed, scales, l);
        if constexpr (GROUP % (most * WIDTH) != 0)
            for (; l < lane_end; l += WIDTH) normalize_lanes<1, QUANTIZE>(x, norm, rows, packed, scales, l);
    }

    static void normalize(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin, uint32_t lane_end) {
        normalize_tile<false>(x, norm, rows, lane_begin, lane_end, nullptr, nullptr);
    }

    static void normalize_quantize(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin,
                                   uint32_t lane_end, uint8_t *packed, TokenScales *scales) {
        normalize_tile<true>(x, norm, rows, lane_begin, lane_end, packed, scales);
    }

    // --- quantisation of activations ---

    // With GELU_FIRST GELU is applied first, in place: its arithmetic hides behind the loads that the
    // extremes need anyway.
    template <uint32_t N, bool GELU_FIRST>
    static inline void quantize_lanes(float *x, uint32_t rows, uint8_t *packed, TokenScales *scales,
                                      uint32_t lane) {
        F low[N], high[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) low[j] = high[j] = V::set(0.0f);
        for (uint32_t r = 0; r < rows; r++) {
            float *at = x + size_t{r} * TILE + lane;
            F v[N];
            EB_UNROLL for (uint32_t j = 0; j < N; j++) { v[j] = V::load(at + j * WIDTH); }
            if (GELU_FIRST) {
                Steps<V>::template gelu_all<N>(v);
                EB_UNROLL for (uint32_t j = 0; j < N; j++) { V::store(at + j * WIDTH, v[j]); }
            }
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                low[j] = V::min(low[j], v[j]);
                high[j] = V::max(high[j], v[j]);
            }
        }
        quantize_between<N>(low, high, x, rows, packed, scales, lane);
    }

    // Quantises lanes whose extremes, 0 among them, are known.
    template <uint32_t N>
    static inline void quantize_between(const F (&low)[N], const F (&high)[N], const float *x, uint32_t rows,
                                        uint8_t *packed, TokenScales *scales, uint32_t lane) {
        F inverse[N];
        I zero[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            F range = V::sub(high[j], low[j]);
            F quotient = V::min(V::div(V::set(255.0f), range), V::set(LARGEST_INVERSE));
            inverse[j] = V::select_zero(range, V::set(1.0f), quotient);
            F from_low = V::mul(low[j], inverse[j]), from_high = V::mul(high[j], inverse[j]);
            F test = V::add(V::add(V::set(-128.0f), from_low), V::add(V::set(127.0f), from_high));
            F z = V::select_positive(test, V::sub(V::set(-128.0f), from_low),
                                     V::sub(V::set(127.0f), from_high));
            z = V::max(V::min(z, V::set(127.0f)), V::set(-128.0f));
            zero[j] = V::iadd(V::round(z), V::iset(128));
            V::store(scales->step + lane + j * WIDTH, V::div(V::set(1.0f), inverse[j]));
            V::istore(scales->zero + lane + j * WIDTH, V::isub(zero[j], V::iset(V::SHIFT)));
        }
        pack_lanes<N>(x, rows, packed, lane, inverse, zero);
    }

    template <uint32_t N>
    static inline void pack_lanes(const float *x, uint32_t rows, uint8_t *packed, uint32_t lane,
                                  const F (&inverse)[N], const I (&zero)[N]) {
        for (uint32_t r = 0; r < rows; r += 4) {
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                I q[4];
                EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                    // past the last row anything will do: its weights are zero
                    const uint32_t row = r + i < rows ? r + i : rows - 1;
                    q[i] = V::round(V::mul(V::load(x + size_t{row} * TILE + lane + j * WIDTH), inverse[j]));
                }
                uint8_t *block = packed + size_t{r / 4} * V::BLOCK;
                if constexpr (HasSaturated<V>::value) {
                    V::store_saturated(block, lane + j * WIDTH, q[0], q[1], q[2], q[3], zero[j]);
                } else {
                    EB_UNROLL for (uint32_t i = 0; i < 4; i++) {
                        I n = V::iadd(q[i], zero[j]);
                        q[i] = V::imax(V::imin(n, V::iset(255)), V::iset(0));
                    }
                    V::store_unsigned(block, lane + j * WIDTH, q[0], q[1], q[2], q[3]);
                }
            }
        }
    }

    template <bool GELU_FIRST>
    static void quantize_tile(float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end,
                              uint8_t *packed, TokenScales *scales) {
        constexpr uint32_t most = TILE / WIDTH < 4 ? TILE / WIDTH : 4;
        uint32_t l = lane_begin;
        for (; l + most * WIDTH <= lane_end; l += most * WIDTH)
            quantize_lanes<most, GELU_FIRST>(x, rows, packed, scales, l);
        if constexpr (GROUP % (most * WIDTH) != 0)
            for (; l < lane_end; l += WIDTH) quantize_lanes<1, GELU_FIRST>(x, rows, packed, scales, l);
    }

    static void quantize(const float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end,
                         uint8_t *packed, TokenScales *scales) {
        // without GELU nothing is written
        quantize_tile<false>(const_cast<float *>(x), rows, lane_begin, lane_end, packed, scales);
    }

    static void gelu_quantize(float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end,
                              uint8_t *packed, TokenScales *scales) {
        quantize_tile<true>(x, rows, lane_begin, lane_end, packed, scales);
    }
};

}  // namespace
}  // namespace edgebert
