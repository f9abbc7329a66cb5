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

Answer explain_gemm(const Question& q, const Machine& machine, const Policy& policy) {
  const auto layout = select_ternary_layout(q.rows, q.depth, machine, policy);
  // Where no row serves there is no layout; the canonical one gives the verdicts.
  const TernaryLayout packed = layout.ok() ? *layout : TernaryLayout::kRows;
  return answer(ternary_gemm_kernels(), layout.ok() ? name(packed) : "",
                explain_ternary_gemm({q.tokens, q.rows, q.depth, q.group, q.asymmetric}, packed, machine, policy));
}

}  // namespace

std::vector<RowInfo> list_kernels() {
  std::vector<RowInfo> list;
  append(list, ternary_gemm_kernels());
  append(list, ternary_depthwise_kernels());
  append(list, ternary_gemm_f32_kernels());
  append(list, int8_gemm_kernels());
  append(list, activation_quant_kernels());
  append(list, float_gemm_kernels());
  append(list, elementwise_kernels());
  append(list, reduction_kernels());
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

std::vector<Answer> explain_kernels(const Question& question, const Machine& machine, const Policy& policy) {
  const auto of_any_shape = [&](const auto& list) { return answer(list, "", explain(list, machine, policy)); };
  return {explain_gemm(question, machine, policy),   of_any_shape(activation_quant_kernels()),
          of_any_shape(ternary_depthwise_kernels()), of_any_shape(ternary_gemm_f32_kernels()),
          of_any_shape(int8_gemm_kernels()),         of_any_shape(float_gemm_kernels()),
          of_any_shape(elementwise_kernels()),       of_any_shape(reduction_kernels())};
}

}  // namespace bitlab::kernels
