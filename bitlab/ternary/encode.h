// Encoders: latent float weights to ternary codes and scales. One function per method of methods.def, where the formulas stand; this is
// the only place where a method is evaluated, in training and in freezing.
#pragma once

#include <cstdint>
#include <span>

#include "bitlab/base/result.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ternary {

// Groups of k of a row; 1 for other granularities.
constexpr int64_t groups_of(const WeightSpec& spec, int64_t depth) {
  return spec.granularity == Granularity::kGroup ? (depth + spec.group - 1) / spec.group : 1;
}

// Scales of a weight [rows, depth]: 1, rows, or rows * groups (row by row).
constexpr int64_t scale_count(const WeightSpec& spec, int64_t rows, int64_t depth) {
  return spec.granularity == Granularity::kTensor ? 1 : rows * groups_of(spec, depth);
}

struct Encoding {
  std::span<int8_t> t;         // [rows, depth], |t| up to the method's limit
  std::span<float> scale;      // [scale_count]: t * scale approximates w; of t = +1 where there is scale_neg
  std::span<float> scale_neg;  // [scale_count] of a method with two learned scales, else empty: of t = -1
  std::span<float> threshold;  // [scale_count], or empty: D of the formula
};

// w        float32 [rows, depth], row-major, depth in canonical order (codes.h)
// learned  as Encoding's scale and scale_neg: in, of methods with learned scales; else empty
//
// Sums run in float64 over 16 interleaved partial sums and one tree, so the result depends on the values and their order alone. The median
// of an even number of values is the lower one of the two in the middle, as torch.median's. Scales of groups are rounded to float16, which
// is how they are stored. Where nothing is above the threshold, twn and fixed have scale 0 and codes 0.
// Errors: as validate(spec), ShapeMismatch (span lengths), NotFinite (a weight, a learned scale; a group's scale beyond float16).
struct LearnedScales {
  std::span<const float> scale, scale_neg;
};
// `pool`: null runs all of it in the caller; the result is the same.
Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const LearnedScales& learned,
              const Encoding& out, ThreadPool* pool = nullptr);

// Where a method's learned scales begin, from the weights: those of twn's formula (ttq), 2 max(mean|w|, 1e-5) (lsq). Other methods: an error.
Status initial_scales(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<float> scale,
                      std::span<float> scale_neg);

}  // namespace bitlab::ternary
