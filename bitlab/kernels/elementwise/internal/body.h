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
  switch (p.op) {
#define BITLAB_UNARY(name, formula) \
  case Elementwise::name:           \
    return map(p.a, p.y, begin, end, [](const F32x16& x) BITLAB_INLINE_LAMBDA -> F32x16 { return formula; });
#define BITLAB_BINARY(name, formula) \
  case Elementwise::name:            \
    return zip(p, begin, end, [](const F32x16& a, const F32x16& b) BITLAB_INLINE_LAMBDA -> F32x16 { return formula; });
#include "bitlab/kernels/elementwise/elementwise.def"
  }
}

}  // namespace
}  // namespace bitlab::kernels
