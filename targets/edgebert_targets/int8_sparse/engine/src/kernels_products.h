// Integer products of rows of weights with packed activations for any vector type V (kernels_impl.h).
#pragma once

#include "kernels.h"
#include "vector_steps.h"

namespace edgebert {
namespace {

template <class V>
struct Products {
    using I = typename V::I;
    using X = typename V::X;
    using W = typename V::W;
    static constexpr uint32_t WIDTH = V::WIDTH;

    // acc[i][j] += weights of row i times the lanes of vector j over `blocks` blocks of 4 channels. A row's
    // weights of two blocks lie `block_stride` bytes apart.
    template <uint32_t R, uint32_t N>
    static inline void add(I (&acc)[R][N], const int8_t *const (&row)[R], size_t block_stride,
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
};

}  // namespace
}  // namespace edgebert
