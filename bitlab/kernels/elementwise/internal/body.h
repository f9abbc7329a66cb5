// The one source of the elementwise kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/elementwise/arguments.h"
#include "bitlab/kernels/internal/float_math.h"

namespace bitlab::kernels {
namespace {

// y = f(a) for the elements [begin, end).
template <class F>
BITLAB_ALWAYS_INLINE void map(const float* a, float* y, int64_t begin, int64_t end, F f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) store(y + i, f(load(a + i)));
  if (i < end) store_some(y + i, f(load_some(a + i, end - i)), end - i);
}

// y = f(a, b) for the elements [begin, end), in runs that meet b side by side.
template <class F>
BITLAB_ALWAYS_INLINE void zip(const ElementwiseArgs& p, int64_t begin, int64_t end, F f) {
  if (p.b_count == 1) return map(p.a, p.y, begin, end, [&](const F32x16& x) BITLAB_INLINE_LAMBDA { return f(x, p.b[0]); });
  while (begin < end) {
    const int64_t first = begin % p.b_count, run = p.b_count - first < end - begin ? p.b_count - first : end - begin;
    const float *a = p.a + begin, *b = p.b + first;
    float* y = p.y + begin;
    int64_t i = 0;
    for (; i + kLanes <= run; i += kLanes) store(y + i, f(load(a + i), load(b + i)));
    if (i < run) store_some(y + i, f(load_some(a + i, run - i), load_some(b + i, run - i)), run - i);
    begin += run;
  }
}

BITLAB_ALWAYS_INLINE F32x16 relu(const F32x16& x) { return select(x < 0.0F, 0.0F, x); }

BITLAB_ALWAYS_INLINE F32x16 gelu_tanh(const F32x16& x) {
  constexpr float kRootTwoOverPi = 0.797884561F, kCubic = 0.044715F;
  return (x * 0.5F) * (tanh((x + (x * x * x) * kCubic) * kRootTwoOverPi) + 1.0F);
}

BITLAB_ALWAYS_INLINE void elementwise_body(const ElementwiseArgs& p, int64_t begin, int64_t end) {
  const auto unary = [&](auto f) BITLAB_INLINE_LAMBDA { map(p.a, p.y, begin, end, f); };
  using X = const F32x16&;
  switch (p.op) {
    case Elementwise::kRelu:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return relu(x); });
    case Elementwise::kSquaredRelu:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return relu(x) * relu(x); });
    case Elementwise::kGelu:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return x * normal_cdf(x); });
    case Elementwise::kGeluTanh:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return gelu_tanh(x); });
    case Elementwise::kSilu:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return x * sigmoid(x); });
    case Elementwise::kSigmoid:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return sigmoid(x); });
    case Elementwise::kTanh:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return tanh(x); });
    case Elementwise::kExp:
      return unary([](X x) BITLAB_INLINE_LAMBDA { return exp(x); });
    case Elementwise::kAdd:
      return zip(p, begin, end, [](X x, X b) BITLAB_INLINE_LAMBDA { return x + b; });
    case Elementwise::kSub:
      return zip(p, begin, end, [](X x, X b) BITLAB_INLINE_LAMBDA { return x - b; });
    case Elementwise::kMul:
      return zip(p, begin, end, [](X x, X b) BITLAB_INLINE_LAMBDA { return x * b; });
    case Elementwise::kDiv:
      return zip(p, begin, end, [](X x, X b) BITLAB_INLINE_LAMBDA { return x / b; });
  }
}

}  // namespace
}  // namespace bitlab::kernels
