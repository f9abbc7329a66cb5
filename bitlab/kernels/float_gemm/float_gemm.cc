#include "bitlab/kernels/float_gemm/float_gemm.h"

#include <array>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr std::array kRows{
#define BITLAB_KERNEL(name, target, needs, product) \
  FloatGemmRow{#name, needs, product, BITLAB_BUILT_FOR_##target(float_gemm_##name)},
#include "bitlab/kernels/float_gemm/kernels.def"
#undef BITLAB_KERNEL
};

}  // namespace

std::span<const FloatGemmRow> float_gemm_rows() { return kRows; }

Selection<FloatGemmRow> explain_float_gemm(const Machine& machine, const Policy& policy) {
  return select_row(
      "float_gemm", float_gemm_rows(), machine, policy, [](const FloatGemmRow&) { return std::optional<RowVerdict>(); },
      [](const FloatGemmRow& row) { return row.product_cost; });
}

Result<const FloatGemmRow*> select_float_gemm(const Machine& machine, const Policy& policy) {
  const auto selection = explain_float_gemm(machine, policy);
  if (selection.row == nullptr) return no_kernel("float_gemm", "float32", selection.verdicts);
  return selection.row;
}

void float_gemm(const FloatGemmRow& row, const FloatGemmArgs& args, int64_t tokens, ThreadPool& pool) {
  constexpr int64_t kTokenBlock = 16, kRowBlock = 128;
  const int64_t row_blocks = ceil_div(args.rows, kRowBlock);
  pool.run(ceil_div(tokens, kTokenBlock) * row_blocks, [&](int64_t task, int) {
    const int64_t token = task / row_blocks * kTokenBlock, first = task % row_blocks * kRowBlock;
    row.run(args, token, std::min(token + kTokenBlock, tokens), first, std::min(first + kRowBlock, args.rows));
  });
}

}  // namespace bitlab::kernels
