#include "bitlab/profile/cost.h"

#include <algorithm>
#include <array>
#include <set>

#include "bitlab/program/internal/attention_input.h"

namespace bitlab::profile {
namespace {

using program::Node;
using program::Op;
using program::Program;
using program::saturated_product;
using program::SymbolSizes;
using program::ValueId;

int64_t saturated_sum(int64_t a, int64_t b) { return a > program::kManyElements - b ? program::kManyElements : a + b; }

// Pairs of one of t queries and one of s keys, of which causal query i sees those up to first + i.
int64_t visible_pairs(int64_t t, int64_t s, bool causal, int64_t first) {
  if (!causal) return saturated_product(t, s);
  const int64_t some = std::clamp<int64_t>(s - 1 - first, 0, t);  // queries that do not see all keys
  const int64_t rising = saturated_sum(saturated_product(some, first), saturated_product(some, some + 1) / 2);
  return saturated_sum(rising, saturated_product(t - some, s));
}

int64_t attention_macs(const Program& p, const Node& node, const SymbolSizes& sizes) {
  namespace place = program::attention_input;
  const bool has_state = node.inputs[place::kKeyState] != program::kNone;
  const auto shape = [&](size_t input) { return shape_at(p.value(node.inputs[input]).shape, sizes); };
  const std::vector<int64_t> q = shape(place::kQuery), v = shape(place::kValue);
  const int64_t keys = shape(has_state ? place::kKeyState : place::kKey)[2];
  const bool causal = node.attribute<int64_t>("causal") == 1;
  const int64_t pairs = visible_pairs(q[2], keys, causal, has_state ? keys - q[2] : 0);
  return saturated_product(saturated_product(q[0], q[1]), saturated_product(pairs, saturated_sum(q[3], v[3])));
}

int64_t conv_macs(const Program& p, const Node& node, const SymbolSizes& sizes) {
  const program::Shape& weight = p.value(node.inputs[program::input_of(Op::conv, "weight")]).shape;
  if (node.attribute<int64_t>("transposed") == 0)
    return saturated_product(elements(p.value(node.output()).shape, sizes), weight_depth(weight));
  const int64_t taps = weight_depth(weight) / weight.back().factor;
  return saturated_product(elements(p.value(node.inputs[0]).shape, sizes),
                           taps * weight_rows(weight) / node.attribute<int64_t>("groups"));
}

// How much of an input an operation reads, as a share of its elements, for those that choose.
double share_read(const Program& p, const Node& node, size_t place, const SymbolSizes& sizes) {
  constexpr std::array kChoosing{Op::slice, Op::take, Op::gather};
  const bool is_table = (node.op == Op::embedding || node.op == Op::ternary_embedding) && place == 1;
  const bool chooses = std::find(kChoosing.begin(), kChoosing.end(), node.op) != kChoosing.end() && place == 0;
  if (!is_table && !chooses) return 1;
  const auto count = [&](ValueId id) { return static_cast<double>(elements(p.value(id).shape, sizes)); };
  return std::min(1.0, count(node.output()) / std::max(1.0, count(node.inputs[place])));
}

int64_t resident_bytes(const runtime::Model& model, const Node& node, ValueId id) {
  const auto weight = program::schema(node.op).weight();
  if (weight && node.inputs[*weight] == id) return model.weight(node).bytes();
  const auto copies = model.constant(id);
  // Of floats there is one copy in memory, in panels, as it is, or both.
  const int64_t panels = static_cast<int64_t>(copies[0].panels.size());
  return panels != 0 ? panels : copies[0].bytes();
}

int64_t plain_bytes(const program::Value& value, const SymbolSizes& sizes, bool narrow) {
  return saturated_product(elements(value.shape, sizes), narrow ? 1 : size_of(value.dtype));
}

}  // namespace

std::string_view name(Arithmetic arithmetic) {
  constexpr std::array<std::string_view, 3> kNames{"none", "int8", "float32"};
  return kNames.at(static_cast<size_t>(arithmetic));
}

int64_t macs(const Program& p, const Node& node, const SymbolSizes& sizes) {
  const auto times_output = [&](int64_t depth) {
    return saturated_product(elements(p.value(node.output()).shape, sizes), depth);
  };
  static_assert(program::input_of(Op::linear, "weight") == program::input_of(Op::ternary_linear, "weight"));
  static_assert(program::input_of(Op::conv, "weight") == program::input_of(Op::ternary_conv, "weight"));
  switch (node.op) {
    case Op::linear:
    case Op::ternary_linear:
      return times_output(weight_depth(p.value(node.inputs[program::input_of(Op::linear, "weight")]).shape));
    case Op::recurrent:
    case Op::ternary_recurrent:
      return saturated_product(elements(p.value(node.inputs[0]).shape, sizes),
                               weight_depth(p.value(node.inputs[program::input_of(Op::ternary_recurrent, "weight")]).shape));
    case Op::conv:
    case Op::ternary_conv:
      return conv_macs(p, node, sizes);
    case Op::matmul:
      return times_output(p.value(node.inputs[0]).shape.back().at(sizes));
    case Op::attention:
      return attention_macs(p, node, sizes);
    default:
      return 0;
  }
}

Arithmetic arithmetic(const Node& node) {
  switch (node.op) {
    case Op::ternary_linear:
    case Op::ternary_conv:
    case Op::ternary_recurrent:
      return node.attribute<std::string>("activation") == "none" ? Arithmetic::kFloat32 : Arithmetic::kInt8;
    case Op::linear:
    case Op::conv:
    case Op::recurrent:
    case Op::matmul:
    case Op::attention:
      return Arithmetic::kFloat32;
    default:
      return Arithmetic::kNone;
  }
}

StepCost cost(const runtime::Model& model, const runtime::Plan& plan, const runtime::PlannedStep& step,
              const SymbolSizes& sizes) {
  const Program& p = model.program();
  const auto is_narrow = [&](ValueId id) { return static_cast<bool>(plan.narrow[static_cast<size_t>(id)]); };
  StepCost cost;
  if (step.is_view) return cost;
  std::set<ValueId> seen;  // read already, or made by the step
  for (const Node* node : step.nodes) {
    cost.macs = saturated_sum(cost.macs, macs(p, *node, sizes));
    cost.arithmetic = std::max(cost.arithmetic, arithmetic(*node));
    for (size_t place = 0; place < node->inputs.size(); ++place) {
      const ValueId id = node->inputs[place];
      if (id == program::kNone || !seen.insert(id).second) continue;
      const program::Value& value = p.value(id);
      const bool is_constant = value.kind == program::ValueKind::kConstant;
      const int64_t bytes = is_constant ? resident_bytes(model, *node, id) : plain_bytes(value, sizes, is_narrow(id));
      cost.bytes += static_cast<int64_t>(static_cast<double>(bytes) * share_read(p, *node, place, sizes));
    }
    seen.insert(node->outputs.begin(), node->outputs.end());
  }
  for (const ValueId id : step.outputs) cost.bytes += plain_bytes(p.value(id), sizes, is_narrow(id));
  return cost;
}

}  // namespace bitlab::profile
