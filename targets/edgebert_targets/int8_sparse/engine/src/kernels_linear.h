// Linear layers, dense and sparse, for any vector type V (kernels_impl.h).
#pragma once

#include <cstring>

#include "kernels_products.h"

namespace edgebert {
namespace {

// The blocks of a slab, one after the other. Their numbers are loaded a step before they are used: addresses
// that wait for a load among other loads leave a quarter of the load slots empty.
struct Blocks {
    const int8_t *values;
    const uint8_t *index;
    uint64_t next;

    Blocks(const SparseSlab &slab, uint32_t chunk)
        : values(slab.values + size_t{slab.chunk_start[chunk]} * 4),
          index(slab.index.data() + slab.chunk_start[chunk]) {
        std::memcpy(&next, index, sizeof next);
    }

    // The numbers of the next `count` blocks, at most 8, the first in the lowest byte.
    EB_INLINE uint64_t take(uint32_t count) {
        const uint64_t numbers = next;
        index += count;
        static_assert(sizeof next <= INDEX_PADDING, "reads past the last block");
        std::memcpy(&next, index, sizeof next);
        return numbers;
    }
};

template <class V>
struct LinearLayers {
    using F = typename V::F;
    using I = typename V::I;
    static constexpr uint32_t WIDTH = V::WIDTH;
    static constexpr uint32_t PREFETCH = 1024;  // bytes of weights ahead

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
        Products<V>::template add<R, N>(acc, weights, 4, packed, lane, blocks);
        if (rest != 0) {
            // the last row ends with the file's tensor: read no byte past it
            int8_t tail[R][4] = {};
            const int8_t *tails[R];
            EB_UNROLL for (uint32_t i = 0; i < R; i++) {
                std::memcpy(tail[i], weights[i] + size_t{blocks} * 4, rest);
                tails[i] = tail[i];
            }
            Products<V>::template add<R, N>(acc, tails, 4, packed + size_t{blocks} * V::BLOCK, lane, 1);
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

    // acc[j] += the next `count` blocks times the lanes of vector j, which begin at x.
    template <uint32_t N>
    EB_INLINE static void sparse_row(I (&acc)[N], Blocks &blocks, uint32_t count, const uint8_t *x) {
        I other[V::SPARSE_SUMS == 2 ? N : 1];
        if (V::SPARSE_SUMS == 2) EB_UNROLL for (uint32_t j = 0; j < N; j++) other[j] = V::iset(0);
        auto &second = [&]() -> I(&)[N] {
            if constexpr (V::SPARSE_SUMS == 2)
                return other;
            else
                return acc;
        }();
        for (; count >= 8; count -= 8) {
            const uint64_t numbers = blocks.take(8);
            V::template add_four<N>(acc, second, x, numbers, blocks.values);
            V::template add_four<N>(acc, second, x, numbers >> 32, blocks.values + 16);
            blocks.values += 32;
        }
        uint64_t numbers = blocks.take(count);
        if (count & 4) {
            V::template add_four<N>(acc, second, x, numbers, blocks.values);
            numbers >>= 32;
            blocks.values += 16;
        }
        if (count & 2) {
            V::template add_block<N>(acc, x + (numbers & 0xff) * V::BLOCK, V::load_w(blocks.values));
            V::template add_block<N>(second, x + (numbers >> 8 & 0xff) * V::BLOCK,
                                     V::load_w(blocks.values + 4));
            numbers >>= 16;
            blocks.values += 8;
        }
        if (count & 1) {
            V::template add_block<N>(acc, x + (numbers & 0xff) * V::BLOCK, V::load_w(blocks.values));
            blocks.values += 4;
        }
        if (V::SPARSE_SUMS == 2)
            EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[j] = V::iadd(acc[j], other[j]);
    }

    // Rows of one slab. Sums wait in `partial` until the last slab.
    template <Finish FINISH, bool FIRST, bool LAST, uint32_t N>
    static void sparse_slab(const SparseSlab &slab, uint32_t chunk_begin, uint32_t chunk_end,
                            const uint8_t *packed, const TokenScales &scales, uint32_t lane, float *out,
                            int32_t *partial) {
        Blocks blocks(slab, chunk_begin);
        const uint32_t rows = static_cast<uint32_t>(slab.rows.size()), chunks_end = chunk_end * CHUNK_ROWS;
        const uint32_t end = rows < chunks_end ? rows : chunks_end;
        const uint8_t *x = packed + size_t{lane} * 4;
        const LaneScales<N <= 4 ? N : 1> held(scales, lane);
        const uint32_t begin = chunk_begin * CHUNK_ROWS;
        // not through `slab`, which stores of vectors might change for all that the compiler knows
        const RowParameters *next_row = slab.rows.data() + begin;
        const uint8_t *count = slab.count.data() + begin;
        for (uint32_t left = end - begin; left != 0; left--) {
            const RowParameters &row = *next_row++;
            int32_t *sums = partial + size_t{row.row} * TILE + lane;
            I acc[N];
            EB_UNROLL for (uint32_t j = 0; j < N; j++) acc[j] =
                FIRST ? V::iset(0) : V::iload(sums + j * WIDTH);
            // rows are too short for the hardware to run ahead far enough when weights come from beyond its
            // caches
            __builtin_prefetch(blocks.values + PREFETCH);
            __builtin_prefetch(blocks.values + PREFETCH + 64);
            __builtin_prefetch(blocks.index + PREFETCH / 4);
            sparse_row<N>(acc, blocks, *count++, x);
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
};

}  // namespace
}  // namespace edgebert
