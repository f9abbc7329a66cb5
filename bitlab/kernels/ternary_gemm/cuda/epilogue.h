// What follows the exact sums, for one result: the scalar form of ../epilogue.h, whose bits it has. Compiled with -fmad=false.
#pragma once

#include <cmath>
#include <type_traits>

#include "bitlab/kernels/internal/cuda_half.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"

namespace bitlab::kernels {

BITLAB_HOST_DEVICE TernaryScaling scaling_of(const TernaryGemmArgs& p) {
  return p.group != 0 ? TernaryScaling::kGroups : p.scale_neg != nullptr ? TernaryScaling::kTwo : TernaryScaling::kOne;
}
// f of it as a type.
template <class F>
auto with_scaling(const TernaryGemmArgs& p, const F& f) {
  switch (scaling_of(p)) {
    case TernaryScaling::kGroups:
      return f(std::integral_constant<TernaryScaling, TernaryScaling::kGroups>());
    case TernaryScaling::kTwo:
      return f(std::integral_constant<TernaryScaling, TernaryScaling::kTwo>());
    default:
      return f(std::integral_constant<TernaryScaling, TernaryScaling::kOne>());
  }
}

// Where groups of k end, in halves of a chunk: 64 k, of which a group has 1, 2 or 4.
struct GroupEnds {
  int halves;
  int shift;

  explicit BITLAB_HOST_DEVICE GroupEnds(const TernaryGemmArgs& p)
      : halves(static_cast<int>((p.depth + 63) / 64)), shift(static_cast<int>(p.group) / 128) {}
  BITLAB_HOST_DEVICE int group(int half) const { return half >> shift; }
  // Bit i: a group ends with the half first + i; none does behind the depth.
  BITLAB_HOST_DEVICE uint32_t from(int first) const {
    const uint32_t every = (shift == 0 ? 0xFFFFFFFFU : shift == 1 ? 0xAAAAAAAAU : 0x88888888U) >> (first & 3);
    const int last = halves - 1 - first;
    if (last < 0) return 0;
    return last > 31 ? every : (every & ((2U << last) - 1)) | 1U << last;
  }
};

BITLAB_HOST_DEVICE float group_scale_at(const TernaryGemmArgs& p, int64_t group, int64_t row) {
  return half_value(p.group_scale[group * p.rows + row]);
}

// What belongs to a row, loaded once for all tokens.
struct RowConstants {
  float scale = 0, scale_neg = 0, bias = 0, alpha = 0, beta = 0;

  static BITLAB_HOST_DEVICE RowConstants of(const TernaryGemmArgs& p, int64_t row) {
    RowConstants c;
    if (p.group == 0) c.scale = p.scale[row * p.scale_stride];
    if (p.scale_neg != nullptr) c.scale_neg = p.scale_neg[row * p.scale_stride];
    if (p.bias != nullptr) c.bias = p.bias[row];
    if (p.alpha != nullptr) c.alpha = p.alpha[row], c.beta = p.beta[row];
    return c;
  }
};

BITLAB_HOST_DEVICE float token_scale(const TernaryGemmArgs& p, int64_t token) { return p.a[token * p.a_stride]; }

// acc: the sum of t q; a: the token's scale.
BITLAB_HOST_DEVICE float scaled(const RowConstants& c, int32_t acc, float a) {
  return (static_cast<float>(acc) * a) * c.scale;
}

// magnitude: the sum of |t| q.
BITLAB_HOST_DEVICE float scaled(const RowConstants& c, int32_t acc, int32_t magnitude, float a) {
  const int32_t positive = (acc & magnitude) + ((acc ^ magnitude) >> 1), negative = magnitude - positive;
  const float plus = static_cast<float>(positive) * a, minus = static_cast<float>(negative) * a;
  return plus * c.scale - minus * c.scale_neg;
}

// What follows the scales, of some results of a thread, each question asked once for all of them. Result i is of the row constants(i), and lies at(i) from
// the first one; -1: there is none.
template <int kCount, class Constants, class At>
BITLAB_HOST_DEVICE void finish_some(const TernaryGemmArgs& p, const Constants& constants, const At& at, float (&y)[kCount]) {
  const auto each = [&](const auto& f) { BITLAB_UNROLL for (int i = 0; i < kCount; ++i) y[i] = f(i, y[i]); };
  if (p.bias != nullptr) each([&](int i, float value) { return value + constants(i).bias; });
  if (p.alpha != nullptr) {
    each([&](int i, float value) {
      value = value * constants(i).alpha;
      return value + constants(i).beta;
    });
  }
  if (p.residual != nullptr) each([&](int i, float value) { return at(i) < 0 ? value : value + p.residual[at(i)]; });
  if (p.relu) each([](int, float value) { return value < 0 ? 0 : value; });
  if (p.clamps) {
    each([&](int, float value) {
      const float raised = value > p.low ? value : p.low, lowered = raised < p.high ? raised : p.high;
      return value == value ? lowered : value;
    });
  }
}

BITLAB_HOST_DEVICE int8_t quantized(const TernaryGemmArgs& p, float y) {
  return cuda::rounded_within(y * p.y_inv, p.y_limit);
}

// As stored where y_type has 16 bits.
BITLAB_HOST_DEVICE uint16_t short_bits(const TernaryGemmArgs& p, float y) {
  return p.y_type == CudaType::kBFloat16 ? bfloat_bits(y) : half_bits(y);
}

// y: finished.
template <int kCount, class At>
BITLAB_HOST_DEVICE void store_some(const TernaryGemmArgs& p, const At& at, const float (&y)[kCount]) {
  const auto each = [&](const auto& f) { BITLAB_UNROLL for (int i = 0; i < kCount; ++i) if (at(i) >= 0) f(at(i), y[i]); };
  if (p.y_q != nullptr) {
    each([&](int64_t place, float value) { p.y_q[place] = quantized(p, value); });
  } else if (p.y_type == CudaType::kFloat32) {
    each([&](int64_t place, float value) { p.y[place] = value; });
  } else {
    each([&](int64_t place, float value) { reinterpret_cast<uint16_t*>(p.y)[place] = short_bits(p, value); });
  }
}

// y: scaled.
BITLAB_HOST_DEVICE void finish(const TernaryGemmArgs& p, const RowConstants& c, float y, int64_t token, int64_t row) {
  float values[] = {y};
  const auto at = [&](int) { return token * p.y_stride + row; };
  finish_some(
      p, [&](int) { return c; }, at, values);
  store_some(p, at, values);
}

}  // namespace bitlab::kernels
