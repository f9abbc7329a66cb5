// The one source of the elementwise kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/elementwise/arguments.h"
#include "bitlab/kernels/internal/float_math.h"

namespace bitlab::kernels {
namespace {

// y_i = f(a_i, b_i) for i < count, with b_i = b[i % 16] where b is `repeated`. f stands there once, which halves the code: what does not fill a
// block goes through one.
template <class F>
BITLAB_ALWAYS_INLINE void walk(const float* a, const float* b, bool repeated, float* y, int64_t count, F f) {
  const int64_t rest = count % kLanes, step = repeated ? 0 : kLanes;
  float last_a[kLanes], last_b[kLanes], *to = y;
  int64_t blocks = count / kLanes;
  for (bool is_last = rest == 0;; is_last = true) {
    for (; blocks > 0; --blocks, a += kLanes, b += step, to += kLanes) store(to, f(load(a), load(b)));
    if (is_last) break;
    store(last_a, load_some(a, rest)), store(last_b, load_some(b, repeated ? kLanes : rest));
    a = to = last_a, b = last_b, blocks = 1;
  }
  for (int64_t i = 0; i < rest; ++i) y[count - rest + i] = last_a[i];
}

inline constexpr int64_t kFewest = 128;  // elements of a run that is worth its begin

// Repeats a period of b, from element `first` on, so often that the whole is blocks and periods: the length that `to` holds then. 0 where it would be
// more than a few blocks.
BITLAB_ALWAYS_INLINE int64_t repeat(const float* b, int64_t period, int64_t first, float (&to)[2 * kFewest]) {
  int64_t whole = period;
  while (whole % kLanes != 0 && whole <= 2 * kFewest) whole += period;
  int64_t length = whole;
  while (length < kFewest) length += whole;
  if (length > 2 * kFewest) return 0;
  for (int64_t i = 0; i < length; ++i) {
    to[i] = b[first];
    first = first + 1 == period ? 0 : first + 1;
  }
  return length;
}

BITLAB_ALWAYS_INLINE void run(Elementwise op, const float* from, const float* with, bool repeated, float* y, int64_t count) {
  switch (op) {
#define BITLAB_UNARY(name, formula)             \
  case Elementwise::name:                       \
    return walk(from, with, repeated, y, count, \
                [](const F32x16& x, const F32x16&) BITLAB_INLINE_LAMBDA -> F32x16 { return formula; });
#define BITLAB_BINARY(name, formula)            \
  case Elementwise::name:                       \
    return walk(from, with, repeated, y, count, \
                [](const F32x16& a, const F32x16& b) BITLAB_INLINE_LAMBDA -> F32x16 { return formula; });
#include "bitlab/kernels/elementwise/elementwise.def"
  }
}

// The elements [begin, end), in runs that meet b, of which functions of one value have none, side by side. A short period is written out first: of an image's few channels.
BITLAB_ALWAYS_INLINE void elementwise_body(const ElementwiseArgs& p, int64_t begin, int64_t end) {
  if (begin >= end) return;
  float periods[2 * kFewest];
  const float* b = p.b;
  int64_t period = p.b_count, first = 0;
  const bool is_one = b == nullptr || period == 1;
  if (is_one) {
    store(periods, b == nullptr ? 0.0F : b[0]);
    b = periods, period = end - begin;
  } else if (first = begin % period; period < kFewest && end - begin > 2 * kFewest) {
    if (const int64_t length = repeat(p.b, period, first, periods); length != 0) b = periods, period = length, first = 0;
  }
  for (; begin < end; first = 0) {
    const int64_t left = period - first, count = left < end - begin ? left : end - begin;
    run(p.op, p.a + begin, b + first, is_one, p.y + begin, count);
    begin += count;
  }
}

}  // namespace
}  // namespace bitlab::kernels
