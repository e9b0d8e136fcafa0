// The kernels of kernels.h for any vector type V, which an arch file defines and instantiates. An arch file
// may specialise members of the parts where its instructions have a faster way.
//
// V has: F and I (WIDTH lanes of float and int32), X (the packed activations of 4 channels for WIDTH lanes),
// W (4 weights for all lanes) and static functions; BLOCK, the bytes of a packed block; SHIFT, what the
// packed form takes off an activation of [0, 255]; OFFSET, what it leaves added to a query of [-127, 127];
// the rows and vectors that its registers hold the sums of; for sparse rows add_block and add_four, which
// add the products of one and of four blocks. The order of float operations is that of arch/scalar.cpp.
#pragma once

#include "kernels_activations.h"
#include "kernels_attention.h"
#include "kernels_linear.h"

namespace edgebert {
namespace {

template <class V>
const Kernels *kernel_table(const char *name) {
    using A = Activations<V>;
    using H = Attention<V>;
    static const Kernels kernels = {name,
                                    V::BLOCK,
                                    A::quantize,
                                    LinearLayers<V>::linear,
                                    A::normalize,
                                    A::activate,
                                    H::quantize_queries,
                                    H::quantize_keys,
                                    H::quantize_values,
                                    H::attend,
                                    A::normalize_quantize,
                                    A::gelu_quantize};
    return &kernels;
}

}  // namespace
}  // namespace edgebert
