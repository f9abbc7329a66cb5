// Encoders: latent float weights to ternary codes and scales. One function per method of methods.def; this is the only place
// where a method is evaluated, in training and in freezing.
#pragma once

#include <cstdint>
#include <span>

#include "bitlab/base/result.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ternary {

constexpr int64_t scale_count(Granularity granularity, int64_t rows) {
  return granularity == Granularity::kTensor ? 1 : rows;
}

// w      float32 [rows, depth], row-major, depth in canonical order (codes.h)
// t      int8    [rows, depth], out, in {-1, 0, 1}
// scale  float32 [scale_count(spec.granularity, rows)], out; t * scale approximates w
//
// Sums run in float64 over 16 interleaved partial sums and one tree, so the result depends on the values and their order alone.
// Formulas: methods.def. Sources: absmean is BitNet b1.58 (arXiv:2402.17764), TWN is arXiv:1605.04711.
// A row (or tensor) without weights above the threshold has scale 0 under TWN and codes 0.
// Errors: ShapeMismatch (span lengths), NotFinite (a weight).
Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<int8_t> t,
              std::span<float> scale);

}  // namespace bitlab::ternary
