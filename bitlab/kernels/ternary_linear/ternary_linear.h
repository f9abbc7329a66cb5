// A ternary linear layer on float activations: activation_quant, then ternary_gemm; or ternary_gemm_f32 where activations stay float. Weights
// kept in int8, packed in that layout, go to int8_gemm. This is the one implementation behind the operator bitlab::ternary_linear of LibTorch
// and the node ternary_linear of the runtime.
//
//   x [tokens, depth] float32 -> y [tokens, rows] float32; activations are quantized per token
#pragma once

#include <string>
#include <variant>

#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/kernels/int8_gemm/int8_gemm.h"
#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm_f32/ternary_gemm_f32.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::kernels {

// How a layer's float activations enter the product.
struct LayerActivation {
  ternary::ActKind kind = ternary::ActKind::kInt8;
  float step = 0;  // of static kinds: what a unit of q stands for, above 0
  ActivationScale scale() const { return {static_cast<float>(act_limit(kind)), is_static(kind) ? 1.0F / step : 0.0F}; }
};

// What a layer reads.
struct LayerInput {
  const char* op = "ternary";  // named in errors
  const float* x = nullptr;    // float32, quantized as `activation` says, or read as it is; or
  const int8_t* q = nullptr;   // int8, |q| <= 127,
  const float* a = nullptr;    // with what a unit of it stands for: a[i * a_stride] of token or sample i
  int64_t a_stride = 0;
  LayerActivation activation{};
};

// The kernels that a ternary layer runs on: that of its product and, unless activations stay float, the one that quantizes them.
struct TernaryKernels {
  const ActivationQuantRow* quant = nullptr;  // null where the product's is a TernaryGemmF32Row
  // Of ternary weights; of a depthwise convolution; of weights kept in int8; of float activations.
  std::variant<const TernaryGemmRow*, const TernaryDepthwiseRow*, const Int8GemmRow*, const TernaryGemmF32Row*> product;

  // The product's kernel where it is such a row, else null.
  template <class Row>
  const Row* get() const {
    const auto* row = std::get_if<const Row*>(&product);
    return row == nullptr ? nullptr : *row;
  }
  std::string names() const;  // "activation_quant:x86_avx2 ternary_gemm:x86_avx2"
};

// A weight [rows, depth] kept in int8, in kInt8, or with `table` in kInt8Rows. Errors: as pack_int8.
Result<PackedTernary> pack_int8_weight(std::span<const int8_t> w, int64_t rows, int64_t depth, bool table,
                                       int64_t groups = 1);

// The layout to pack a ternary weight in, for activations of that kind. At load. Error: NoKernel.
Result<TernaryLayout> select_ternary_layout(ternary::ActKind kind, int64_t rows, int64_t depth, const Machine& machine,
                                            const Policy& policy);

// Errors: NoKernel; Unsupported: float activations with groups, two scales or int8 weights.
Result<TernaryKernels> select_ternary(ternary::ActKind kind, const TernaryGemmProblem& problem, TernaryLayout layout,
                                      const Machine& machine, const Policy& policy);

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
  bool relu = false, clamps = false;
  float low = -__builtin_inff(), high = __builtin_inff();

  TernaryGemmProblem problem(int64_t tokens) const {
    return {tokens, packed->rows, packed->depth, group, scale_neg != nullptr};
  }
  // All but the activations, the residual and the results.
  TernaryGemmArgs arguments() const;
};

// What the product's kernel asks for, for each thread.
int64_t product_scratch_bytes(const TernaryKernels& kernels, int64_t depth, int64_t group);
int64_t ternary_linear_scratch_bytes(const TernaryKernels& kernels, const TernaryWeight& weight, int64_t tokens,
                                     int threads);

// From a token of q to the next: a multiple of 16 values; those behind the last of a token are zero.
int64_t ternary_linear_q_stride(int64_t depth);

// `scratch` is aligned to 64 and holds ternary_linear_scratch_bytes for at least pool.threads() threads. Error: NotFinite, naming input.op.
Status ternary_linear(const TernaryKernels& kernels, const TernaryWeight& weight, const LayerInput& input, int64_t tokens,
                      float* y, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
