// A ternary linear layer on float activations: activation_quant, then ternary_gemm. This is the one implementation behind the
// operator bitlab::ternary_linear of LibTorch and the node ternary_linear of the runtime.
//
//   x [tokens, depth] float32 -> y [tokens, rows] float32; activations are quantized per token
#pragma once

#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

namespace bitlab::kernels {

// The kernels that a ternary layer runs on.
struct TernaryKernels {
  const ActivationQuantRow* quant = nullptr;
  const TernaryGemmRow* gemm = nullptr;
  const TernaryDepthwiseRow* depthwise = nullptr;  // of a depthwise convolution, instead of gemm
};

// Errors: NoKernel.
Result<TernaryKernels> select_ternary(const TernaryGemmProblem& problem, TernaryLayout layout, const Machine& machine,
                                      const Policy& policy);

// A packed weight [rows, depth] with its scales and what follows the product; does not own. Fields as in TernaryGemmArgs.
struct TernaryWeight {
  const PackedTernary* packed = nullptr;
  const float* scale = nullptr;  // [1] or [rows]
  int64_t scale_stride = 0;      // 0 per tensor, 1 per output channel
  const float* bias = nullptr;   // [rows] or null
  const float* scale_neg = nullptr;
  int64_t group = 0;
  const uint16_t* group_scale = nullptr;
  const float* alpha = nullptr;
  const float* beta = nullptr;
  bool relu = false;

  // All but the activations and the results.
  TernaryGemmArgs arguments() const;
};

int64_t ternary_linear_scratch_bytes(const TernaryKernels& kernels, const TernaryWeight& weight, int64_t tokens,
                                     int threads);

// `scratch` is aligned to 64 and holds ternary_linear_scratch_bytes for at least pool.threads() threads. Error: NotFinite.
Status ternary_linear(const TernaryKernels& kernels, const TernaryWeight& weight, const float* x, int64_t tokens, float* y,
                      uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
