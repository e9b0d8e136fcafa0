// Constants that a Horner step loads as the accumulators of several vectors: half the cost of copying a
// register for each, and registers stay free.
#pragma once

#include "neon_vector.h"

namespace edgebert {
namespace {

constexpr uint32_t COPIES = GROUP;

template <size_t N>
struct Copies {
    float of[N][COPIES];
};

template <size_t N>
constexpr Copies<N> copies(const float (&constants)[N]) {
    Copies<N> all{};
    for (size_t i = 0; i < N; i++)
        for (uint32_t j = 0; j < COPIES; j++) all.of[i][j] = constants[i];
    return all;
}

alignas(64) constexpr Copies<6> GELU_COPIES = copies(GELU);
alignas(64) constexpr Copies<5> GELU_EXP2_COPIES = copies(GELU_EXP2);
alignas(64) constexpr Copies<5> EXP2_BYTE_COPIES = copies(EXP2_BYTE);

// Keeps the compiler from loading the constants before the loop and copying them from register to register.
EB_INLINE const float (*at_each_use(const float (*constants)[COPIES]))[COPIES] {
    __asm__ volatile("" : "+r"(constants));
    return constants;
}

}  // namespace
}  // namespace edgebert
