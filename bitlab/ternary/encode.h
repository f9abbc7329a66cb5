// Encoders: latent float weights to ternary codes and scales. One rule per method of methods.def, where the formulas stand (method.h). In training
// and in freezing rules are evaluated here; for tensors on other devices ops/encode.cc computes the same bits.
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

// What a method learns, as Encoding's scales are: what it does not learn is empty.
struct Learned {
  std::span<const float> scale, scale_neg, threshold;
  std::span<const float>& operator[](Parameter parameter) {
    return parameter == Parameter::kScale ? scale : parameter == Parameter::kScaleNeg ? scale_neg : threshold;
  }
};

// w        float32 [rows, depth], row-major, depth in canonical order (codes.h)
//
// Sums are those of sum.h, so the result depends on the values and their order alone, not on the pool. The median of an even number of values
// is the lower one of the two in the middle, as torch.median's. Scales of groups are rounded to float16, which is how they are stored. Where
// no weight, or none of a sign, is above the threshold, the best scale is 0. Statistics and D are those of all weights, with a sparse pattern, too;
// a draw (draw.h) counts weights by their place in w.
// Errors: as validate(spec), ShapeMismatch (span lengths), NotFinite (a learned parameter, a weight; a group's scale beyond float16), OutOfMemory
// (a sparse pattern takes a copy of w). What an Encoding holds after an error is not specified.
// `pool`: null runs all of it in the caller; the result is the same.
Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const Learned& learned,
              const Encoding& out, ThreadPool* pool = nullptr);

// What encode() says of its input, for encoders on other devices: whether learned parameters are those of a spec with so many scales, `counts` being
// the numbers in each (ShapeMismatch); NotFinite of a value of `what`, "weights" or "learned parameters"; NotFinite of the scale of a group.
Status check_learned(const WeightSpec& spec, int64_t scales, std::span<const int64_t> counts);
Failure not_finite(std::string_view what, float value, int64_t index);
Failure beyond_float16(int64_t group);

}  // namespace bitlab::ternary
