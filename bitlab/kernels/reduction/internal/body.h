// The one source of the reduction kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/internal/float_math.h"
#include "bitlab/kernels/reduction/arguments.h"

namespace bitlab::kernels {
namespace {

// f(block, i, count) for every block of up to 16 values of a row, from element i on; lanes behind `count` hold `padding`.
template <class F>
BITLAB_ALWAYS_INLINE void for_each_block(const float* x, int64_t columns, float padding, F f) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) f(load(x + i), i, kLanes);
  if (i < columns) f(load_some(x + i, columns - i, padding), i, columns - i);
}

BITLAB_ALWAYS_INLINE float sum_of(const float* x, int64_t columns) {
  F32x16 sum = 0.0F;
  for_each_block(x, columns, 0.0F, [&](const F32x16& block, int64_t, int64_t) BITLAB_INLINE_LAMBDA { sum += block; });
  return tree_sum(sum);
}

// The largest of sign * x_i, as it is in the row.
template <int kSign>
BITLAB_ALWAYS_INLINE float extreme_of(const float* x, int64_t columns) {
  constexpr float kLeast = kSign > 0 ? -__builtin_inff() : __builtin_inff();
  const auto is_beyond = [](const auto& a, const auto& b) BITLAB_INLINE_LAMBDA { return kSign > 0 ? a > b : a < b; };
  F32x16 extreme = kLeast;
  for_each_block(x, columns, kLeast, [&](const F32x16& block, int64_t, int64_t) BITLAB_INLINE_LAMBDA {
    extreme = select(is_beyond(block, extreme), block, select(block == block, extreme, block));
  });
  float lanes[kLanes];
  store(lanes, extreme);
  float most = lanes[0];
  for (float lane : lanes) most = is_beyond(lane, most) || lane != lane ? lane : most;
  return most;
}

BITLAB_ALWAYS_INLINE void softmax_row(const float* x, int64_t columns, float* y) {
  const float largest = extreme_of<1>(x, columns);
  for_each_block(x, columns, 0.0F, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
    store_some(y + i, exp(block - largest), count);
  });
  const float total = sum_of(y, columns);
  for_each_block(y, columns, 0.0F, [&](const F32x16& block, int64_t i, int64_t count) BITLAB_INLINE_LAMBDA {
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
        softmax_row(x, p.columns, p.y + row * p.columns);
        break;
      case Reduction::kLayerNorm:
      case Reduction::kRmsNorm:
        norm_row(p, x, p.y + row * p.columns);
        break;
      case Reduction::kSum:
        p.y[row] = sum_of(x, p.columns);
        break;
      case Reduction::kMean:
        p.y[row] = sum_of(x, p.columns) / n;
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
