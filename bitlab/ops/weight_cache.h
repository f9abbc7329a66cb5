// The packed form of codes tensors, kept as long as the tensors live.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>

#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::ops {

struct CachedWeight {
  kernels::PackedTernary packed;

  // The kernels for a number of tokens; the last choice is remembered. Thread-safe. Throws NoKernel.
  kernels::TernaryKernels kernels_for(int64_t tokens) const;

 private:
  mutable std::mutex mutex_;
  mutable int64_t last_tokens_ = -1;
  mutable kernels::TernaryKernels last_;
};

// codes: uint8 [rows, ceil(depth / 4)] on the CPU. Validated and packed for this machine when first seen, and again after an in-place
// change (the tensor's version). Thread-safe. Throws ShapeMismatch, TypeMismatch, Corrupt, NoKernel, OutOfMemory.
std::shared_ptr<const CachedWeight> packed_weight(const char* op, const at::Tensor& codes, int64_t depth);

// Number of weights that are kept; those of dead tensors leave when another is added.
size_t packed_weight_count();

}  // namespace bitlab::ops
