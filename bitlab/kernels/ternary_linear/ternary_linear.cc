#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::kernels {
namespace {

// Scratch: q [tokens, stride], then a [tokens].
int64_t q_stride(int64_t depth) { return round_up(depth, kVnStep); }
int64_t q_bytes(int64_t tokens, int64_t depth) { return round_up(tokens * q_stride(depth), kAlignment); }

}  // namespace

Result<TernaryKernels> select_ternary(const TernaryGemmProblem& problem, TernaryLayout layout, const Machine& machine,
                                      const Policy& policy) {
  TernaryKernels kernels;
  BITLAB_TRY(kernels.quant, select_activation_quant(machine, policy));
  BITLAB_TRY(kernels.gemm, select_ternary_gemm(problem, layout, machine, policy));
  return kernels;
}

int64_t ternary_linear_scratch_bytes(int64_t tokens, int64_t depth) {
  return q_bytes(tokens, depth) + tokens * static_cast<int64_t>(sizeof(float));
}

Status ternary_linear(const TernaryKernels& kernels, const TernaryWeight& weight, const float* x, int64_t tokens, float* y,
                      uint8_t* scratch, ThreadPool& pool) {
  const PackedTernary& w = *weight.packed;
  auto* q = reinterpret_cast<int8_t*>(scratch);
  auto* a = reinterpret_cast<float*>(scratch + q_bytes(tokens, w.depth));
  const int64_t stride = q_stride(w.depth);
  BITLAB_RETURN_IF_ERROR(
      activation_quant(*kernels.quant, "ternary_linear", x, tokens, w.depth, w.depth, q, stride, a, pool));
  const TernaryGemmArgs args{w.data.data(),       w.rows,      w.depth, q,     stride, a, 1, weight.scale,
                             weight.scale_stride, weight.bias, y,       w.rows};
  ternary_gemm(*kernels.gemm, args, tokens, pool);
  return {};
}

}  // namespace bitlab::kernels
