// Rotary position embedding, float32: arXiv:2104.09864, in the half-rotation form of Llama and Hugging Face.
//
//   x [outer, tokens, depth], depth even -> y of the same shape. With x[o, t] = (a, b), its two halves, the position p = positions[t], and for
//   pair i the angle p theta^(-2 i / depth):   y[o, t] = (a cos - b sin, b cos + a sin)
//
// Angles, cosines and sines are computed in float64 from basic operations alone and rounded to float32 once; products and their sum are rounded
// one by one. So every machine gives the same bits. Source of the reduction by parts of pi/2: Cody and Waite 1980.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

struct RotaryShape {
  int64_t outer = 0;  // batch * heads
  int64_t tokens = 0;
  int64_t depth = 0;
};

inline constexpr int64_t kMaxPosition = 1 << 24;  // up to which the reduction of angles is exact

// theta^(-2 i / depth) for i < depth / 2, each a product of the one before it.
std::vector<double> rotary_frequencies(double theta, int64_t depth);

// The table that rotary() rotates by, [tokens, depth / 2] each. Error: InvalidArgument, for a position outside [0, kMaxPosition].
Status rotary_table(double theta, int64_t depth, std::span<const int64_t> positions, float* cosines, float* sines);

int64_t rotary_scratch_bytes(const RotaryShape& shape);

// `scratch` is aligned to 64 and holds rotary_scratch_bytes. x and y may be the same. Errors: those of rotary_table.
Status rotary(const RotaryShape& shape, double theta, const int64_t* positions, const float* x, float* y, uint8_t* scratch,
              ThreadPool& pool);

}  // namespace bitlab::kernels
