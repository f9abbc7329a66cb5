// Fused multiply-add on F32x16, for sums of products alone: IEEE 754 fixes its bits as it does those of + and *, and it costs what one of them
// costs. Everything else is written without it (-ffp-contract=off), so that no compiler decides where a product is rounded.
#pragma once

#include "bitlab/kernels/internal/simd.h"

namespace bitlab::kernels {
namespace {

// x * y + z, rounded once.
BITLAB_ALWAYS_INLINE F32x16 fma(const F32x16& x, const F32x16& y, const F32x16& z) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) {
    const FloatRegister &a = x.part[i], &b = y.part[i], &c = z.part[i];
#if defined(__AVX512F__)
    r.part[i] = reinterpret_cast<FloatRegister>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX__) && defined(__FMA__)
    r.part[i] = reinterpret_cast<FloatRegister>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__)
    r.part[i] = vfmaq_f32(c, a, b);
#else
    for (int lane = 0; lane < kRegisterLanes; ++lane) r.part[i][lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
#endif
  }
  return r;
}

}  // namespace
}  // namespace bitlab::kernels
