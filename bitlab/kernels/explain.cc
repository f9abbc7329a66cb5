#include "bitlab/kernels/explain.h"

#include <algorithm>

#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/int8_gemm/int8_gemm.h"
#include "bitlab/kernels/reduction/reduction.h"
#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm_f32/ternary_gemm_f32.h"

namespace bitlab::kernels {
namespace {

template <class Row>
void append(std::vector<RowInfo>& list, const KernelList<Row>& kernels) {
  for (const Row& row : kernels.rows) {
    RowInfo info{kernels.op, row.name, "", row.needs.to_string(), row.run != nullptr};
    if constexpr (requires { row.layout; }) info.layout = name(row.layout);
    list.push_back(std::move(info));
  }
}

template <class Row>
Answer answer(const KernelList<Row>& list, std::string_view layout, const Selection<Row>& selection) {
  return {list.op, std::string(layout), selection.verdicts, selection.row != nullptr};
}

template <class Row>
Answer explain_list(const KernelList<Row>& list, const Question&, const Machine& machine, const Policy& policy) {
  return answer(list, "", explain(list, machine, policy));
}

Answer explain_list(const KernelList<TernaryGemmRow>& list, const Question& q, const Machine& machine,
                    const Policy& policy) {
  const auto layout = select_ternary_layout(q.rows, q.depth, machine, policy);
  // Where no row serves there is no layout; the canonical one gives the verdicts.
  const TernaryLayout packed = layout.ok() ? *layout : TernaryLayout::kRows;
  return answer(list, layout.ok() ? name(packed) : "",
                explain_ternary_gemm({q.tokens, q.rows, q.depth, q.group, q.asymmetric}, packed, machine, policy));
}

// The ops that have a kernels.def, each visited as its list.
template <class Visit>
void each_list(const Visit& visit) {
  visit(ternary_gemm_kernels());
  visit(activation_quant_kernels());
  visit(ternary_depthwise_kernels());
  visit(ternary_gemm_f32_kernels());
  visit(int8_gemm_kernels());
  visit(float_gemm_kernels());
  visit(elementwise_kernels());
  visit(reduction_kernels());
}

}  // namespace

std::string kernel_ops() {
  std::string ops;
  each_list([&](const auto& kernels) { ops.append(ops.empty() ? "" : ", ").append(kernels.op); });
  return ops;
}

std::vector<RowInfo> list_kernels() {
  std::vector<RowInfo> list;
  each_list([&](const auto& kernels) { append(list, kernels); });
  return list;
}

Status check_policy(const Policy& policy) {
  const auto rows = list_kernels();
  for (std::string_view rest = policy.restrict_to; !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
    const bool known = item.find(':') != std::string_view::npos &&
                       std::any_of(rows.begin(), rows.end(),
                                   [&](const RowInfo& r) { return fmt::format("{}:{}", r.op, r.row).starts_with(item); });
    if (!known)
      return make_error(ErrorCode::kUnknownName, "[kernels] op:kernel as `bitlab-run kernels list` names them, got '{}'",
                        item);
  }
  return {};
}

Result<std::vector<Answer>> explain_kernels(const Question& question, const Machine& machine, const Policy& policy) {
  std::vector<Answer> answers;
  each_list([&](const auto& kernels) {
    if (question.op.empty() || question.op == kernels.op)
      answers.push_back(explain_list(kernels, question, machine, policy));
  });
  if (answers.empty())
    return make_error(ErrorCode::kUnknownName, "[kernels] an op of {{{}}}, got '{}'", kernel_ops(), question.op);
  return answers;
}

}  // namespace bitlab::kernels
