// The one source of the activation_quant kernels, compiled by each of them for its instruction set. An instruction set brings
//
//   kWidth       floats of a register
//   store_block  rint of four registers of values within int8, to consecutive bytes
#pragma once

#include <cstring>

#include "bitlab/kernels/activation_quant/arguments.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"

namespace bitlab::kernels {
namespace {

// The bits of the largest |x|; they order like values, with infinity and NaN above all finite ones. count is a multiple of 4 kWidth.
template <int kWidth>
BITLAB_INLINE int32_t largest_magnitude(const float* x, int64_t count) {
  Ints<kWidth> largest[4] = {};
  for (int64_t i = 0; i < count; i += 4 * kWidth) _Pragma("GCC unroll 4") for (int v = 0; v < 4; ++v) {
      Ints<kWidth> bits;
      std::memcpy(&bits, x + i + v * kWidth, sizeof(bits));
      bits &= 0x7FFFFFFF;
      largest[v] = bits > largest[v] ? bits : largest[v];
    }
  for (int v = 1; v < 4; ++v) largest[0] = largest[v] > largest[0] ? largest[v] : largest[0];
  int32_t lanes[kWidth];
  std::memcpy(lanes, &largest[0], sizeof(lanes));
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

// q = rint(x * inv), clamped where it may be larger than the limit. A row that fits the first-level cache makes time to fetch the next one,
// which mostly lies behind it.
template <class Isa, bool kClamp>
BITLAB_INLINE void convert(const float* x, int64_t count, float inv, float limit, int8_t* q) {
  constexpr int kWidth = Isa::kWidth;
  const auto factor = all_floats<kWidth>(inv), high = all_floats<kWidth>(limit), low = all_floats<kWidth>(-limit);
  constexpr int64_t kCached = 8192;
  const auto next = reinterpret_cast<uintptr_t>(x) + static_cast<uintptr_t>(count <= kCached ? 4 * count : 0);
  for (int64_t i = 0; i < count; i += 4 * kWidth) {
    for (int v = 0; v < 4 * kWidth; v += 16)
      __builtin_prefetch(reinterpret_cast<const void*>(next + 4 * static_cast<uintptr_t>(i + v)));
    Floats<kWidth> values[4];
    _Pragma("GCC unroll 4") for (int v = 0; v < 4; ++v) {
      std::memcpy(&values[v], x + i + v * kWidth, sizeof(values[v]));
      values[v] = values[v] * factor;
      if constexpr (kClamp) {
        values[v] = values[v] < high ? values[v] : high;
        values[v] = values[v] > low ? values[v] : low;
      }
    }
    Isa::store_block(q + i, values);
  }
}

template <class Isa>
BITLAB_INLINE bool quantize(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a) {
  constexpr int64_t kBlock = 4 * Isa::kWidth;
  const int64_t whole = count / kBlock * kBlock;
  float tail[kBlock] = {};
  for (int64_t i = whole; i < count; ++i) tail[i - whole] = x[i];
  if (!scale.fits) {
    int32_t most = largest_magnitude<Isa::kWidth>(x, whole);
    if (whole < count) {
      const int32_t last = largest_magnitude<Isa::kWidth>(tail, kBlock);
      most = last > most ? last : most;
    }
    if (most >= 0x7F800000) return false;
    float largest;
    std::memcpy(&largest, &most, sizeof(largest));
    if (q == nullptr) {
      *a = largest;
      return true;
    }
    if (scale.inv == 0) scale = scale.of(largest);
  }
  *a = 1.0F / scale.inv;
  int8_t last[kBlock];
  if (scale.fits) {  // |x inv| is at most the limit (1 + 2^-23), which rounds to the limit: nothing to clamp.
    convert<Isa, false>(x, whole, scale.inv, scale.limit, q);
    convert<Isa, false>(tail, kBlock, scale.inv, scale.limit, last);
  } else {
    convert<Isa, true>(x, whole, scale.inv, scale.limit, q);
    convert<Isa, true>(tail, kBlock, scale.inv, scale.limit, last);
  }
  for (int64_t i = whole; i < count; ++i) q[i] = last[i - whole];
  return true;
}

}  // namespace
}  // namespace bitlab::kernels
