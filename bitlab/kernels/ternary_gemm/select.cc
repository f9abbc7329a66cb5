#include <algorithm>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

namespace bitlab::kernels {
namespace {

double cost(const TernaryGemmRow& row, const TernaryGemmProblem& p) {
  constexpr int64_t kUnit = 8, kPassTokens = 64, kPassRows = 2048;
  const auto number = [](int64_t value) { return static_cast<double>(value); };  // whose products do not overflow
  const double steps = number(ceil_div(p.depth, kVnStep)), rows = number(ceil_div(p.rows, kUnit));
  const double passes = steps * number(ceil_div(p.tokens, kPassTokens)) * number(ceil_div(p.rows, kPassRows));
  const int64_t rest = p.tokens % row.cost.lanes;
  double a_step = row.cost.step * number(round_up(p.tokens, row.cost.lanes));
  if (row.cost.single != 0)
    a_step = std::min(a_step, row.cost.step * number(p.tokens - rest) + row.cost.single * number(rest));
  return row.cost.fixed + a_step * steps * rows + row.cost.pass * passes;
}

std::string describe(const TernaryGemmProblem& p) {
  std::string text = fmt::format("tokens={} rows={} depth={}", p.tokens, p.rows, p.depth);
  if (p.group != 0) text += fmt::format(" group={}", p.group);
  if (p.asymmetric) text += " asymmetric";
  return text;
}

}  // namespace

KernelList<TernaryGemmRow> ternary_gemm_kernels() {
  static constexpr TernaryGemmRow kRows[] = {
#define BITLAB_KERNEL(name, target, needs, layout, serves, cost, scratch) \
  {#name,                                                                 \
   needs,                                                                 \
   TernaryLayout::layout,                                                 \
   TernaryGemmServes::serves,                                             \
   cost,                                                                  \
   scratch,                                                               \
   BITLAB_BUILT(name, target, ternary_gemm_##name)},
#include "bitlab/kernels/ternary_gemm/kernels.def"
#undef BITLAB_KERNEL
  };
  return {"ternary_gemm", kRows};
}

Result<TernaryLayout> select_ternary_layout(int64_t rows, int64_t depth, const Machine& machine, const Policy& policy) {
  const auto accept_all = [](const TernaryGemmRow&) { return std::optional<RowVerdict>(); };
  const auto total = [&](const TernaryGemmRow& row) {
    return cost(row, {1, rows, depth}) + cost(row, {8, rows, depth}) + cost(row, {64, rows, depth});
  };
  const auto selection = select_row(ternary_gemm_kernels(), machine, policy, accept_all, total);
  if (selection.row == nullptr) return no_kernel("ternary_gemm", describe({1, rows, depth}), selection.verdicts);
  return selection.row->layout;
}

Selection<TernaryGemmRow> explain_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                               const Machine& machine, const Policy& policy) {
  const auto refuse = [&](const TernaryGemmRow& row) {
    std::optional<RowVerdict> refused;
    if (row.layout != layout) {
      refused = RowVerdict{"", Verdict::kLayoutMismatch, "the weights are packed in another layout", 0};
    } else if (row.serves == TernaryGemmServes::kPlainOnly && (problem.asymmetric || problem.group != 0)) {
      refused = RowVerdict{"", Verdict::kShapeNotAccepted, "one scale a row only", 0};
    }
    return refused;
  };
  return select_row(ternary_gemm_kernels(), machine, policy, refuse,
                    [&](const TernaryGemmRow& row) { return cost(row, problem); });
}

Result<const TernaryGemmRow*> select_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                                  const Machine& machine, const Policy& policy) {
  const auto selection = explain_ternary_gemm(problem, layout, machine, policy);
  if (selection.row == nullptr) return no_kernel("ternary_gemm", describe(problem), selection.verdicts);
  return selection.row;
}

}  // namespace bitlab::kernels
