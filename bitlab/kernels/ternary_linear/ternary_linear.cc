#include "bitlab/kernels/ternary_linear/ternary_linear.h"

#include <algorithm>

namespace bitlab::kernels {
namespace {

// Scratch: q [tokens, stride], a [tokens], then what the kernel asks for.
struct LinearScratch {
  int64_t q, a;  // bytes
  LinearScratch(int64_t tokens, int64_t depth)
      : q(round_up(tokens * ternary_linear_q_stride(depth), kAlignment)),
        a(round_up(tokens * static_cast<int64_t>(sizeof(float)), kAlignment)) {}
};

const char* op_of(const TernaryGemmRow*) { return ternary_gemm_kernels().op; }
const char* op_of(const TernaryDepthwiseRow*) { return ternary_depthwise_kernels().op; }
const char* op_of(const Int8GemmRow*) { return int8_gemm_kernels().op; }
const char* op_of(const TernaryGemmF32Row*) { return ternary_gemm_f32_kernels().op; }

}  // namespace

std::string TernaryKernels::names() const {
  std::string text;
  if (quant != nullptr) text = fmt::format("{}:{} ", activation_quant_kernels().op, quant->name);
  return text + std::visit([](const auto* row) { return fmt::format("{}:{}", op_of(row), row->name); }, product);
}

Result<PackedTernary> pack_int8_weight(std::span<const int8_t> w, int64_t rows, int64_t depth, bool table, int64_t groups) {
  if (!table) {
    BITLAB_TRY(AlignedBuffer data, pack_int8(w, rows, depth, groups));
    return PackedTernary{std::move(data), rows, depth, TernaryLayout::kInt8};
  }
  BITLAB_TRY(AlignedBuffer data, AlignedBuffer::allocate(w.size()));
  std::copy(w.begin(), w.end(), reinterpret_cast<int8_t*>(data.data()));
  return PackedTernary{std::move(data), rows, depth, TernaryLayout::kInt8Rows};
}

Result<TernaryLayout> select_ternary_layout(ternary::ActKind kind, int64_t rows, int64_t depth, const Machine& machine,
                                            const Policy& policy) {
  if (kind == ternary::ActKind::kNone) return TernaryLayout::kRows;
  return select_ternary_layout(rows, depth, machine, policy);
}

Result<TernaryKernels> select_ternary(ternary::ActKind kind, const TernaryGemmProblem& problem, TernaryLayout layout,
                                      const Machine& machine, const Policy& policy) {
  TernaryKernels kernels;
  if (kind == ternary::ActKind::kNone) {
    if (problem.group != 0 || problem.asymmetric || is_int8(layout))
      return make_error(
          ErrorCode::kUnsupported,
          "[ternary_gemm_f32] ternary weights with one scale a row or tensor where activations stay float, got {}",
          is_int8(layout)      ? "int8"
          : problem.group != 0 ? "groups"
                               : "two scales");
    BITLAB_TRY(kernels.product, select(ternary_gemm_f32_kernels(), machine, policy));
    return kernels;
  }
  BITLAB_TRY(kernels.quant, select(activation_quant_kernels(), machine, policy));
  if (is_int8(layout)) {
    BITLAB_TRY(kernels.product, select(int8_gemm_kernels(), machine, policy));
  } else {
    BITLAB_TRY(kernels.product, select_ternary_gemm(problem, layout, machine, policy));
  }
  return kernels;
}

TernaryGemmArgs TernaryWeight::arguments() const {
  return {.weights = packed->data.data(),
          .rows = packed->rows,
          .depth = packed->depth,
          .scale = scale,
          .scale_stride = scale_stride,
          .scale_neg = scale_neg,
          .group = group,
          .group_scale = group_scale,
          .bias = bias,
          .alpha = alpha,
          .beta = beta,
          .relu = relu,
          .clamps = clamps,
          .low = low,
          .high = high};
}

int64_t product_scratch_bytes(const TernaryKernels& kernels, int64_t depth, int64_t group) {
  const auto* gemm = kernels.get<TernaryGemmRow>();
  return gemm == nullptr ? kInt8GemmScratchBytes : ternary_gemm_scratch_bytes(*gemm, depth, group);
}

int64_t ternary_linear_q_stride(int64_t depth) { return round_up(depth, kVnStep); }

int64_t ternary_linear_scratch_bytes(const TernaryKernels& kernels, const TernaryWeight& weight, int64_t tokens,
                                     int threads) {
  if (kernels.get<TernaryGemmF32Row>() != nullptr) return 0;
  const LinearScratch bytes(tokens, weight.packed->depth);
  return bytes.q + bytes.a + threads * product_scratch_bytes(kernels, weight.packed->depth, weight.group);
}

Status ternary_linear(const TernaryKernels& kernels, const TernaryWeight& weight, const LayerInput& input, int64_t tokens,
                      float* y, uint8_t* scratch, ThreadPool& pool) {
  const PackedTernary& w = *weight.packed;
  TernaryGemmArgs args = weight.arguments();
  args.y = y;
  args.y_stride = w.rows;
  if (const auto* weight_only = kernels.get<TernaryGemmF32Row>()) {
    ternary_gemm_f32(*weight_only, {args, input.x, w.depth}, tokens, pool);
    return {};
  }
  const LinearScratch bytes(tokens, w.depth);
  auto* q = reinterpret_cast<int8_t*>(scratch);
  auto* a = reinterpret_cast<float*>(scratch + bytes.q);
  args.q_stride = ternary_linear_q_stride(w.depth);
  args.q = input.q == nullptr ? q : input.q;
  args.a = input.q == nullptr ? a : input.a;
  args.a_stride = input.q == nullptr ? 1 : input.a_stride;
  if (input.q == nullptr)
    BITLAB_RETURN_IF_ERROR(activation_quant(*kernels.quant, input.op, input.x, tokens, w.depth, w.depth, q, args.q_stride, a,
                                            pool, input.activation.scale()));
  uint8_t* rest = scratch + bytes.q + bytes.a;
  if (const auto* int8 = kernels.get<Int8GemmRow>()) {
    int8_gemm(*int8, args, tokens, rest, pool);
  } else {
    ternary_gemm(*kernels.get<TernaryGemmRow>(), args, tokens, rest, pool);
  }
  return {};
}

}  // namespace bitlab::kernels
