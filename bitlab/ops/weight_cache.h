// What evaluation derives from weights and keeps: the codes of latent weights, and the layouts of codes that kernels read. One mechanism
// (tensor_cache.h) decides when either is made anew. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>

#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/ops/ops.h"

namespace bitlab::ops {

struct CachedWeight {
  kernels::PackedTernary packed;
  AlignedBuffer group_scale;  // the scales of groups of k, as kernels read them

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

// codes: uint8 [rows, ceil(depth / 4)], or int8 [rows, depth] of weights kept in int8, on the CPU. They are validated and packed when they are
// first seen for a use, and again after a change. Throws ShapeMismatch, TypeMismatch, Corrupt, OutOfMemory.
std::shared_ptr<const CachedWeight> packed_weight(const char* op, const at::Tensor& codes, const WeightUse& use);

// The same for a weight on the CPU whose codes are of the right form, made anew. Throws Corrupt, OutOfMemory.
std::shared_ptr<const CachedWeight> pack_weight(const char* op, const at::Tensor& codes, const WeightUse& use);
// Whether codes are of the form that a use asks for, their values aside. Throws as packed_weight.
void check_codes(const char* op, const at::Tensor& codes, const WeightUse& use);

// The codes of a latent float32 weight on the CPU, as ternary_pack() makes them. They are made when the weight is first seen with this
// encoding, and again after a change of the weight or of its learned scales. A change through `weight.data()`, or by a CUDA graph, leaves no trace in
// the weight: forget_codes() makes it seen. Throws what ternary_pack() throws.
std::shared_ptr<const PackedWeight> cached_codes(const at::Tensor& weight, const WeightQuant& quant,
                                                 const ConvWindow* window = nullptr);
void forget_codes(const at::Tensor& weight);

// What cached codes were made from: the latent weight, and its learned scales where it has any. Empty for other tensors.
std::vector<at::Tensor> sources_of(const at::Tensor& codes);

// How many layouts are kept; those of dead tensors leave when another is added.
size_t packed_weight_count();

}  // namespace bitlab::ops
