// The packed form of codes tensors, kept as long as the tensors live.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>

#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::ops {

struct CachedWeight {
  kernels::PackedTernary packed;
  int64_t groups = 1;         // of a convolution's rows
  AlignedBuffer group_scale;  // the scales of groups of k, as kernels read them
  at::Tensor group_scale_source;

  // The kernels for a problem with such activations, by `choose`; the last choice is remembered. Thread-safe.
  kernels::TernaryKernels kernels_for(ternary::ActKind activation, const kernels::TernaryGemmProblem& problem,
                                      const std::function<kernels::TernaryKernels()>& choose) const;

 private:
  mutable std::mutex mutex_;
  mutable kernels::TernaryGemmProblem last_problem_{-1, 0, 0};
  mutable ternary::ActKind last_activation_ = ternary::ActKind::kInt8;
  mutable kernels::TernaryKernels last_;
};

// How a weight is used: what decides its layout.
struct WeightUse {
  int64_t depth;
  int64_t groups = 1;  // of a convolution's rows
  kernels::TernaryLayout layout;
  const at::Tensor* group_scale = nullptr;  // float16 [rows, groups of k]
};

// codes: uint8 [rows, ceil(depth / 4)], or int8 [rows, depth] of weights kept in int8, on the CPU. Validated and packed when first seen, and again after an in-place change (the tensor's
// version) or for another use. Thread-safe. Throws ShapeMismatch, TypeMismatch, Corrupt, OutOfMemory.
std::shared_ptr<const CachedWeight> packed_weight(const char* op, const at::Tensor& codes, const WeightUse& use);

// Number of weights that are kept; those of dead tensors leave when another is added.
size_t packed_weight_count();

}  // namespace bitlab::ops
