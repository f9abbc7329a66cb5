// The one source of the reduction kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/internal/float_math.h"
#include "bitlab/kernels/reduction/arguments.h"

namespace bitlab::kernels {
namespace {

// f(block, i, count) for every block of up to 16 values of a row, from element i on; lanes behind `count` hold `padding`.
template <class F>
BITLAB_ALWAYS_INLINE void for_each_block(const float* x, int64_t columns, float padding, F f) {
  for (int64_t i = 0; i < columns; i += kLanes) {  // f stands there once: it is long
    const int64_t count = columns - i < kLanes ? columns - i : kLanes;
    f(load_some(x + i, count, padding), i, count);
  }
}

BITLAB_ALWAYS_INLINE float sum_of(const float* x, int64_t columns) {
  F32x16 sum = 0.0F;
  for_each_block(x, columns, 0.0F, [&](const F32x16& block, int64_t, int64_t) BITLAB_INLINE_LAMBDA { sum += block; });
  return tree_sum(sum);
}

// The largest, or least, of what extreme and x hold; NaN where one is.
template <int kSign, class T>
BITLAB_ALWAYS_INLINE auto is_beyond(const T& a, const T& b) {
  if constexpr (kSign > 0) {
    return a > b;
  } else {
    return a < b;
  }
}
template <int kSign>
BITLAB_ALWAYS_INLINE F32x16 further(const F32x16& extreme, const F32x16& x) {
  return select(is_beyond<kSign>(x, extreme), x, select(x == x, extreme, x));
}
template <int kSign>
BITLAB_ALWAYS_INLINE float furthest(const F32x16& extreme) {
  float lanes[kLanes];
  store(lanes, extreme);
  float most = lanes[0];
  for (float lane : lanes) most = is_beyond<kSign>(lane, most) || lane != lane ? lane : most;
  return most;
}
template <int kSign>
constexpr float kLeast = kSign > 0 ? -__builtin_inff() : __builtin_inff();

template <int kSign>
BITLAB_ALWAYS_INLINE float extreme_of(const float* x, int64_t columns) {
  F32x16 extreme = kLeast<kSign>;
  for_each_block(x, columns, kLeast<kSign>, [&](const F32x16& block, int64_t, int64_t) BITLAB_INLINE_LAMBDA {
    extreme = further<kSign>(extreme, block);
  });
  return furthest<kSign>(extreme);
}

// kWeights; returns the total.
BITLAB_ALWAYS_INLINE float weights_row(const ReductionArgs& p, const float* x, float* y) {
  F32x16 largest = kLeast<1>;
  for_each_block(x, p.columns, 0.0F, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
    F32x16 z = block * p.scale;
    if (p.mask != nullptr) z = z + (p.mask_step == 0 ? F32x16(p.mask[0]) : load_some(p.mask + i, count));
    store_some(y + i, z, count);
    largest = larger(count == kLanes ? z : load_some(y + i, count, kLeast<1>), largest);  // without NaN, which the sum has
  });
  float most = tree_largest(largest);
  if (p.op == Reduction::kWeights && most == kLeast<1>) most = 0;  // of nothing but -infinity: weights of 0, not NaN
  F32x16 sum = 0.0F;
  for_each_block(y, p.columns, kLeast<1>, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
    const F32x16 weight = exp<true>(block - most);
    store_some(y + i, weight, count);
    sum += weight;
  });
  return tree_sum(sum);
}

// kSoftmax and kWeights.
BITLAB_ALWAYS_INLINE void softmax_row(const ReductionArgs& p, int64_t row) {
  float* y = p.y + row * p.columns;
  const float total = weights_row(p, p.x + row * p.columns, y);
  if (p.op == Reduction::kWeights) {
    p.total[row] = total;
    return;
  }
  for_each_block(y, p.columns, 0.0F, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
    store_some(y + i, block / total, count);
  });
}

BITLAB_ALWAYS_INLINE void norm_row(const ReductionArgs& p, const float* x, float* y) {
  const auto n = static_cast<float>(p.columns);
  const float mean = p.op == Reduction::kLayerNorm ? sum_of(x, p.columns) / n : 0.0F;
  F32x16 squares = 0.0F;
  for_each_block(x, p.columns, mean,
                 [&](const F32x16& block, int64_t, int64_t) BITLAB_INLINE_LAMBDA {  // padded with what adds nothing
                   const F32x16 from_mean = block - mean;
                   squares += from_mean * from_mean;
                 });
  const float factor = 1.0F / __builtin_sqrtf(tree_sum(squares) / n + p.eps);
  for_each_block(x, p.columns, 0.0F, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
    F32x16 value = (block - mean) * factor;
    if (p.weight != nullptr) value = value * load_some(p.weight + i, count);
    if (p.bias != nullptr) value = value + load_some(p.bias + i, count);
    store_some(y + i, value, count);
  });
}

BITLAB_ALWAYS_INLINE void reduction_body(const ReductionArgs& p, int64_t begin, int64_t end) {
  const auto n = static_cast<float>(p.columns);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.x + row * p.columns;
    switch (p.op) {
      case Reduction::kSoftmax:
      case Reduction::kWeights:
        softmax_row(p, row);
        break;
      case Reduction::kLayerNorm:
      case Reduction::kRmsNorm:
        norm_row(p, x, p.y + row * p.columns);
        break;
      case Reduction::kSum:
      case Reduction::kMean:
        p.y[row] = sum_of(x, p.columns) / (p.op == Reduction::kMean ? n : 1.0F);
        break;
      case Reduction::kMax:
        p.y[row] = extreme_of<1>(x, p.columns);
        break;
      case Reduction::kMin:
        p.y[row] = extreme_of<-1>(x, p.columns);
        break;
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
