// Float steps of the kernels for any vector type V (kernels_impl.h). The order of operations is that of
// arch/scalar.cpp.
#pragma once

#include <cstdint>

#include "float_steps.h"

// Arrays of sums must become registers: the compilers only see that once the loops over them are unrolled.
#if defined(__clang__)
#define EB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define EB_UNROLL _Pragma("GCC unroll 16")
#endif
#define EB_INLINE [[gnu::always_inline]] inline

namespace edgebert {
namespace {

template <class V>
struct Steps {
    using F = typename V::F;
    using I = typename V::I;

    // Of N vectors at once: each waits for its own chain of fma only.
    template <uint32_t N>
    EB_INLINE static void gelu_all(F (&x)[N]) {
        F s[N], z[N], f[N], p[N];
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            s[j] = V::min(V::abs(x[j]), V::set(GELU_LIMIT));
            const F square = V::mul(s[j], s[j]);
            const F high = V::fma(V::set(GELU[5]), s[j], V::set(GELU[4]));
            const F middle = V::fma(V::set(GELU[3]), s[j], V::set(GELU[2]));
            const F low = V::fma(V::set(GELU[1]), s[j], V::set(GELU[0]));
            p[j] = V::fma(V::fma(high, square, middle), square, low);
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) {
            z[j] = V::add(p[j], V::set(ROUNDER));
            f[j] = V::sub(p[j], V::sub(z[j], V::set(ROUNDER)));
            p[j] = V::set(GELU_EXP2[4]);
        }
        EB_UNROLL for (int i = 3; i >= 0; i--) {
            const F coefficient = V::set(GELU_EXP2[i]);
            EB_UNROLL for (uint32_t j = 0; j < N; j++) p[j] = V::fma(p[j], f[j], coefficient);
        }
        EB_UNROLL for (uint32_t j = 0; j < N; j++) x[j] =
            V::fma(s[j], times_power(p[j], z[j]), V::max(x[j], V::set(0.0f)));
    }

    // p * 2^n, n the integer in the low bits of z.
    static inline F times_power(F p, F z) {
        return V::as_float(V::iadd(V::as_int(p), V::template shift_left<23>(V::as_int(z))));
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
        return times_power(p, z);
    }

    // round(255 * 2^x) for x <= 0.
    static inline I exp2_byte(F x) {
        x = V::max(x, V::set(EXP2_BYTE_LOWEST));
        F z = V::add(x, V::set(ROUNDER));
        F f = V::sub(x, V::sub(z, V::set(ROUNDER)));
        F p = V::set(EXP2_BYTE[4]);
        for (int i = 3; i >= 0; i--) p = V::fma(p, f, V::set(EXP2_BYTE[i]));
        return V::round(times_power(p, z));
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
};

}  // namespace
}  // namespace edgebert
