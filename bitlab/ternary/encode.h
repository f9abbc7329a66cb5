// Encoders: latent float weights to ternary codes and scales. One rule per method of methods.def, where the formulas stand. In training and in
// freezing methods are evaluated here; for tensors on other devices ops/quantize.cc computes the same bits.
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
  std::span<float> scale_neg;  // [scale_count] of an asymmetric method, else empty: of t = -1
  std::span<float> threshold;  // [scale_count], or empty: D of the formula
};

// w        float32 [rows, depth], row-major, depth in canonical order (codes.h)
// learned  as Encoding's scale and scale_neg: in, of methods with learned scales; else empty
//
// Sums are those of sum.h, so the result depends on the values and their order alone, not on the pool. The median of an even number of values
// is the lower one of the two in the middle, as torch.median's. Scales of groups are rounded to float16, which is how they are stored. Where
// nothing is above the threshold, twn and fixed have scale 0 and codes 0.
// Errors: as validate(spec), ShapeMismatch (span lengths), NotFinite (a learned scale, a weight; a group's scale beyond float16). What an
// Encoding holds after an error is not specified.
struct LearnedScales {
  std::span<const float> scale, scale_neg;
};
// `pool`: null runs all of it in the caller; the result is the same.
Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const LearnedScales& learned,
              const Encoding& out, ThreadPool* pool = nullptr);

// What encode() says of its input, for encoders on other devices: whether the numbers of learned scales are those of a spec with so many scales
// (ShapeMismatch); NotFinite of a value of `what`, "weights" or "learned scales"; NotFinite of the scale of a group.
Status check_learned(const WeightSpec& spec, int64_t scales, int64_t positive, int64_t negative);
Error not_finite(std::string_view what, float value, int64_t index);
Error beyond_float16(int64_t group);

// Where a method's learned scales begin, from the weights: those of twn's formula (ttq), 2 max(mean|w|, 1e-5) (lsq). Other methods: an error.
Status initial_scales(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<float> scale,
                      std::span<float> scale_neg);

}  // namespace bitlab::ternary
