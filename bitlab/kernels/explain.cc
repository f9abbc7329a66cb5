#include "bitlab/kernels/explain.h"

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
void append(std::vector<RowInfo>& list, const char* op, std::span<const Row> rows) {
  for (const Row& row : rows) {
    RowInfo info{op, row.name, "", row.needs.to_string(), row.run != nullptr};
    if constexpr (requires { row.layout; }) info.layout = name(row.layout);
    list.push_back(std::move(info));
  }
}

template <class Row>
Answer answer(const char* op, std::string_view layout, const Selection<Row>& selection) {
  return {op, std::string(layout), selection.verdicts, selection.row != nullptr};
}

Answer explain_gemm(const Question& q, const Machine& machine, const Policy& policy) {
  const auto layout = select_ternary_layout(q.rows, q.depth, machine, policy);
  // Where no row serves there is no layout; the canonical one gives the verdicts.
  const TernaryLayout packed = layout.ok() ? *layout : TernaryLayout::kRows;
  return answer("ternary_gemm", layout.ok() ? name(packed) : "",
                explain_ternary_gemm({q.tokens, q.rows, q.depth, q.group, q.asymmetric}, packed, machine, policy));
}

}  // namespace

std::vector<RowInfo> list_kernels() {
  std::vector<RowInfo> list;
  append(list, "ternary_gemm", ternary_gemm_rows());
  append(list, "ternary_depthwise", ternary_depthwise_kernels().rows);
  append(list, "ternary_gemm_f32", ternary_gemm_f32_kernels().rows);
  append(list, "int8_gemm", int8_gemm_kernels().rows);
  append(list, "activation_quant", activation_quant_kernels().rows);
  append(list, "float_gemm", float_gemm_kernels().rows);
  append(list, "elementwise", elementwise_kernels().rows);
  append(list, "reduction", reduction_kernels().rows);
  return list;
}

std::vector<Answer> explain_kernels(const Question& question, const Machine& machine, const Policy& policy) {
  return {explain_gemm(question, machine, policy),
          answer("activation_quant", "", explain(activation_quant_kernels(), machine, policy)),
          answer("ternary_depthwise", "", explain(ternary_depthwise_kernels(), machine, policy)),
          answer("ternary_gemm_f32", "", explain(ternary_gemm_f32_kernels(), machine, policy)),
          answer("int8_gemm", "", explain(int8_gemm_kernels(), machine, policy)),
          answer("float_gemm", "", explain(float_gemm_kernels(), machine, policy)),
          answer("elementwise", "", explain(elementwise_kernels(), machine, policy)),
          answer("reduction", "", explain(reduction_kernels(), machine, policy))};
}

}  // namespace bitlab::kernels
