// The kernels of kernels.h for any vector type V, which an arch file defines and instantiates. An arch file
// may specialise members of Impl where its instructions have a faster way.
//
// V has: F and I (WIDTH lanes of float and int32), X (the packed activations of 4 channels for WIDTH lanes),
// W (4 weights for all lanes) and static functions; BLOCK, the bytes of a packed block; SHIFT, what the
// packed form takes off an activation of [0, 255]; OFFSET, what it leaves added to a query of [-127, 127];
// the rows and vectors that its registers hold the sums of. The order of float operations is that of
// arch/scalar.cpp.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "float_steps.h"
#include "kernels.h"

// Arrays of sums must become registers: the compilers only see that once the loops over them are unrolled.
#if defined(__clang__)
#define EB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define EB_UNROLL _Pragma("GCC unroll 16")
#endif
#define EB_INLINE [[gnu::always_inline]] inline

namespace edgebert {
namespace {

// Whether V has store_saturated: q + zero of four channels, clamped to a byte, faster than by single steps.
// It says so by a type named Saturates.
template <class V, class = void>
struct HasSaturated : std::false_type {};
template <class V>
struct HasSaturated<V, std::void_t<typename V::Saturates>> : std::true_type {};

template <class V>
struct Impl {
    using F = typename V::F;
    using I = typename V::I;
    using X = typename V::X;
    using W = typename V::W;
    static constexpr uint32_t WIDTH = V::WIDTH;
    static constexpr uint32_t PREFETCH = 1024;  // bytes of weights ahead

    // --- float steps ---

    // Of N vectors at once: each waits for its own chain of fma only.
    template <uint32_t N>
    EB_INLINE static void gelu_all(F (&x)[N]) {
        F s[N], p[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            s[j] = V::sub(V::min(V::abs(x[j]), V::set(GELU_LIMIT)), V::set(GELU_LIMIT / 2));
            p[j] = V::set(GELU[GELU_DEGREE]);
        }
        EB_UNROLL for (int i = GELU_DEGREE - 1; i >= 0; i--) {
            F coefficient = V::set(GELU[i]);
            EB_UNROLL for (uint32_t j = 0; j < N; j++) p[j] = V::fma(p[j], s[j], coefficient);
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) x[j] = V::sub(V::max(x[j], V::set(0.0f)), p[j]);
    }

    static inline F gelu(F x) {
        F one[1] = {x};
        gelu_all<1>(one);
        return one[0];
    }

    // 2^x for x in [-126, 126].
    static inline F exp2(F x) {
        F z = V::add(x, V::set(ROUNDER));
        F f = V::sub(x, V::sub(z, V::set(ROUNDER)));
        F p = V::set(EXP2[6]);
        for (int i = 5; i >= 0; i--) p = V::fma(p, f, V::set(EXP2[i]));
        return V::as_float(V::iadd(V::as_int(p), V::template shift_left<23>(V::as_int(z))));
    }

    // round(255 * 2^x) for x <= 0.
    static inline I exp2_byte(F x) {
        x = V::max(x, V::set(EXP2_BYTE_LOWEST));
        F z = V::add(x, V::set(ROUNDER));
        F f = V::sub(x, V::sub(z, V::set(ROUNDER)));
        F p = V::set(EXP2_BYTE[4]);
        for (int i = 3; i >= 0; i--) p = V::fma(p, f, V::set(EXP2_BYTE[i]));
        return V::round(V::as_float(V::iadd(V::as_int(p), V::template shift_left<23>(V::as_int(z)))));
    }

    // tanh(x) = 1 - 2 / (e^2x + 1)
    static inline F tanh(F x) {
        F c = V::max(V::min(x, V::set(10.0f)), V::set(-10.0f));
        F e = exp2(V::mul(c, V::set(2.0f * LOG2_E)));
        return V::sub(V::set(1.0f), V::div(V::set(2.0f), V::add(e, V::set(1.0f))));
    }

    static inline F gelu_tanh(F x) {
        F cube = V::mul(V::mul(x, x), x);
        F inner = V::mul(V::set(0.7978845608028654f), V::fma(V::set(0.044715f), cube, x));
        return V::mul(V::mul(V::set(0.5f), x), V::add(V::set(1.0f), tanh(inner)));
    }

    static void activate(Activation activation, float *x, uint32_t rows, uint32_t lanes) {
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t l = 0; l < lanes; l += WIDTH) {
                float *at = x + size_t{r} * TILE + l;
                F v = V::load(at);
                switch (activation) {
                    case Activation::gelu:
                        v = gelu(v);
                        break;
                    case Activation::gelu_tanh:
                        v = gelu_tanh(v);
                        break;
                    case Activation::relu:
                        v = V::max(v, V::set(0.0f));
                        break;
                    case Activation::tanh:
                        v = tanh(v);
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
                gelu_all<N>(v);
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

    // --- integer products ---

    // acc[i][j] += weights of row i times the lanes of vector j over `blocks` blocks of 4 channels. A row's
    // weights of two blocks lie `block_stride` bytes apart.
    template <uint32_t R, uint32_t N>
    static inline void products(I (&acc)[R][N], const int8_t *const (&row)[R], size_t block_stride,
                                const uint8_t *x, uint32_t lane, uint32_t blocks) {
        for (uint32_t k = 0; k < blocks; k++) {
            X v[N];
            EB_UNROLL for (uint32_t j = 0; j < N; j++) v[j] =
                V::load_x(x + size_t{k} * V::BLOCK, lane + j * WIDTH);
            EB_UNROLL for (uint32_t i = 0; i < R; i++) {
                W w = V::load_w(row[i] + size_t{k} * block_stride);
                EB_UNROLL for (uint32_t j = 0; j < N; j++) V::dot(acc[i][j], v[j], w);
            }
        }
    }

    // Scales of N vectors of lanes. Held in registers where there are enough of them.
    template <uint32_t N>
    struct LaneScales {
        F step[N];
        I zero[N];

        EB_INLINE LaneScales(const TokenScales &scales, uint32_t lane) {
            EB_UNROLL for (uint32_t j = 0; j < N; j++) {
                step[j] = V::load(scales.step + lane + j * WIDTH);
                zero[j] = V::iload(scales.zero + lane + j * WIDTH);
            }
        }
    };

    // The steps after the products for N vectors of one row, together: a constant is then loaded once for
    // all.
    template <Finish FINISH, uint32_t N>
    EB_INLINE static void finish(const I *acc, const RowParameters &row, const LaneScales<N> &scales,
                                 uint32_t lane, float *out) {
        F y[N];
        float *at = out + size_t{row.row} * TILE + lane;
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            I sum = V::isub(acc[j], V::imul(scales.zero[j], V::iset(row.sum)));
            y[j] = V::fma(V::mul(V::to_float(sum), scales.step[j]), V::set(row.scale), V::set(row.bias));
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            if (FINISH == Finish::add) y[j] = V::add(V::load(at + j * WIDTH), y[j]);
            V::store(at + j * WIDTH, y[j]);
        }
    }

    // As `finish` for any number of vectors, at most four at a time.
    template <Finish FINISH, uint32_t N>
    EB_INLINE static void finish_row(const I (&acc)[N], const RowParameters &row, const TokenScales &scales,
                                     uint32_t lane, float *out) {
        constexpr uint32_t PART = N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N % 2 == 0 ? 2 : 1;
        EB_UNROLL for (uint32_t j = 0; j < N; j += PART) finish<FINISH, PART>(
            acc + j, row, LaneScales<PART>(scales, lane + j * WIDTH), lane + j * WIDTH, out);
    }

    // --- dense linear layer ---

    template <Finish FINISH, uint32_t R, uint32_t N>
    static void dense_rows(const Linear &linear, uint32_t row, const uint8_t *packed,
                           const TokenScales &scales, uint32_t lane, float *out) {
        I acc[R][N];
        const int8_t *weights[R];
        EB_UNROLL for (uint32_t i = 0; i < R; i++) {
            weights[i] = linear.dense + size_t{row + i} * linear.in;
            EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[i][j] = V::iset(0);
        }
        uint32_t blocks = linear.in / 4, rest = linear.in % 4;
        products<R, N>(acc, weights, 4, packed, lane, blocks);
        if (rest != 0) {
            // the last row ends with the file's tensor: read no byte past it
            int8_t tail[R][4] = {};
            const int8_t *tails[R];
            EB_UNROLL for (uint32_t i = 0; i < R; i++) {
                std::memcpy(tail[i], weights[i] + size_t{blocks} * 4, rest);
                tails[i] = tail[i];
            }
            products<R, N>(acc, tails, 4, packed + size_t{blocks} * V::BLOCK, lane, 1);
        }
        EB_UNROLL for (uint32_t i = 0; i < R; i++)
            finish_row<FINISH, N>(acc[i], linear.rows[row + i], scales, lane, out);
    }

    template <Finish FINISH, uint32_t N>
    static void dense_lanes(const Linear &linear, uint32_t begin, uint32_t end, const uint8_t *packed,
                            const TokenScales &scales, uint32_t lane, float *out) {
        uint32_t row = begin;
        for (; row + V::DENSE_ROWS <= end; row += V::DENSE_ROWS)
            dense_rows<FINISH, V::DENSE_ROWS, N>(linear, row, packed, scales, lane, out);
        for (; row < end; row++) dense_rows<FINISH, 1, N>(linear, row, packed, scales, lane, out);
    }

    template <Finish FINISH>
    static void dense_linear(const Linear &linear, uint32_t begin, uint32_t end, const uint8_t *packed,
                             const TokenScales &scales, uint32_t lanes, float *out) {
        constexpr uint32_t N = V::DENSE_VECTORS;
        uint32_t l = 0;
        for (; l + N * WIDTH <= lanes; l += N * WIDTH)
            dense_lanes<FINISH, N>(linear, begin, end, packed, scales, l, out);
        if constexpr (N > 2 && GROUP % (N * WIDTH) != 0)
            for (; l + 2 * WIDTH <= lanes; l += 2 * WIDTH)
                dense_lanes<FINISH, 2>(linear, begin, end, packed, scales, l, out);
        if constexpr (GROUP % (N * WIDTH) != 0)
            for (; l < lanes; l += WIDTH) dense_lanes<FINISH, 1>(linear, begin, end, packed, scales, l, out);
    }

    // --- sparse linear layer ---

    // Rows of one slab. Sums wait in `partial` until the last slab.
    template <Finish FINISH, bool FIRST, bool LAST, uint32_t N>
    static void sparse_slab(const SparseSlab &slab, uint32_t chunk_begin, uint32_t chunk_end,
                            const uint8_t *packed, const TokenScales &scales, uint32_t lane, float *out,
                            int32_t *partial) {
        const size_t first = slab.chunk_start[chunk_begin];
        const int8_t *values = slab.values + first * 4;
        const uint8_t *index = slab.index.data() + first;
        const uint32_t end = static_cast<uint32_t>(slab.rows.size()) < chunk_end * CHUNK_ROWS
                                 ? static_cast<uint32_t>(slab.rows.size())
                                 : chunk_end * CHUNK_ROWS;
        const LaneScales<N <= 4 ? N : 1> held(scales, lane);
        for (uint32_t visit = chunk_begin * CHUNK_ROWS; visit < end; visit++) {
            const RowParameters &row = slab.rows[visit];
            int32_t *sums = partial + size_t{row.row} * TILE + lane;
            const uint32_t count = slab.count[visit];
            I acc[N];
            EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[j] =
                FIRST ? V::iset(0) : V::iload(sums + j * WIDTH);
            // rows are too short for the hardware to run ahead far enough when weights come from beyond its
            // caches
            __builtin_prefetch(values + PREFETCH);
            __builtin_prefetch(values + PREFETCH + 64);
            __builtin_prefetch(index + PREFETCH / 4);
            V::template sparse_row<N>(acc, values, index, count, packed, lane);
            values += size_t{count} * 4;
            index += count;
            if constexpr (LAST && N <= 4)
                finish<FINISH, N>(acc, row, held, lane, out);
            else if constexpr (LAST)
                finish_row<FINISH, N>(acc, row, scales, lane, out);
            else
                EB_UNROLL for (uint32_t j = 0; j < N; j++) V::istore(sums + j * WIDTH, acc[j]);
        }
    }

    template <Finish FINISH, uint32_t N>
    static void sparse_lanes(const Linear &linear, uint32_t begin, uint32_t end, const uint8_t *packed,
                             const TokenScales &scales, uint32_t lane, float *out, int32_t *partial) {
        const size_t slabs = linear.slabs.size();
        for (size_t s = 0; s < slabs; s++) {
            const uint8_t *x = packed + s * (SLAB_COLUMNS / 4) * V::BLOCK;
            const SparseSlab &slab = linear.slabs[s];
            if (slabs == 1)
                sparse_slab<FINISH, true, true, N>(slab, begin, end, x, scales, lane, out, partial);
            else if (s == 0)
                sparse_slab<FINISH, true, false, N>(slab, begin, end, x, scales, lane, out, partial);
            else if (s + 1 < slabs)
                sparse_slab<FINISH, false, false, N>(slab, begin, end, x, scales, lane, out, partial);
            else
                sparse_slab<FINISH, false, true, N>(slab, begin, end, x, scales, lane, out, partial);
        }
    }

    template <Finish FINISH>
    static void sparse_linear(const Linear &linear, uint32_t begin, uint32_t end, const uint8_t *packed,
                              const TokenScales &scales, uint32_t lanes, float *out, int32_t *partial) {
        constexpr uint32_t N = V::SPARSE_VECTORS;
        uint32_t l = 0;
        for (; l + N * WIDTH <= lanes; l += N * WIDTH)
            sparse_lanes<FINISH, N>(linear, begin, end, packed, scales, l, out, partial);
        if constexpr (N > 4)
            for (; l + 4 * WIDTH <= lanes; l += 4 * WIDTH)
                sparse_lanes<FINISH, 4>(linear, begin, end, packed, scales, l, out, partial);
        if (N > 3)
            for (; l + 3 * WIDTH <= lanes && lanes - l != 4 * WIDTH; l += 3 * WIDTH)
                sparse_lanes<FINISH, 3>(linear, begin, end, packed, scales, l, out, partial);
        if (N > 2)
            for (; l + 2 * WIDTH <= lanes; l += 2 * WIDTH)
                sparse_lanes<FINISH, 2>(linear, begin, end, packed, scales, l, out, partial);
        for (; l < lanes; l += WIDTH)
            sparse_lanes<FINISH, 1>(linear, begin, end, packed, scales, l, out, partial);
    }

    template <Finish FINISH>
    static void linear_finish(const Linear &linear, uint32_t chunk_begin, uint32_t chunk_end,
                              const uint8_t *packed, const TokenScales &scales, uint32_t lanes, float *out,
                              int32_t *partial) {
        if (linear.dense != nullptr) {
            uint32_t end = chunk_end * CHUNK_ROWS < linear.out ? chunk_end * CHUNK_ROWS : linear.out;
            dense_linear<FINISH>(linear, chunk_begin * CHUNK_ROWS, end, packed, scales, lanes, out);
        } else {
            sparse_linear<FINISH>(linear, chunk_begin, chunk_end, packed, scales, lanes, out, partial);
        }
    }

    static void linear(const Linear &linear, uint32_t chunk_begin, uint32_t chunk_end, const uint8_t *packed,
                       const TokenScales &scales, uint32_t lanes, Finish finish, float *out,
                       int32_t *partial) {
        switch (finish) {
            case Finish::store:
                return linear_finish<Finish::store>(linear, chunk_begin, chunk_end, packed, scales, lanes,
                                                    out, partial);
            case Finish::add:
                return linear_finish<Finish::add>(linear, chunk_begin, chunk_end, packed, scales, lanes, out,
                                                  partial);
        }
    }

    // --- attention ---

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
        products<4, N>(acc, row, TILE * 4, queries, lane, blocks);
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
                        p[i] = exp2_byte(V::mul(V::sub(e, most[j]), scale[j]));
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
        products<R, N>(acc, row, 4, head.probabilities, lane, blocks);
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

    static const Kernels *table(const char *name) {
        static const Kernels kernels = {name,
                                        V::BLOCK,
                                        quantize,
                                        linear,
                                        normalize,
                                        activate,
                                        quantize_queries,
                                        quantize_keys,
                                        quantize_values,
                                        attend,
                                        normalize_quantize,
                                        gelu_quantize};
        return &kernels;
    }
};

}  // namespace
}  // namespace edgebert
