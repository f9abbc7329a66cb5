// Recurrent layers: for each layer and direction a product of the inputs of all tokens, and a node that goes from state to state.
#include <array>
#include <string>
#include <vector>

#include <ATen/ops/count_nonzero.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

bool is_lstm(const Call& call) { return call.op.starts_with("aten::lstm"); }

// In a direction of a layer: weights of inputs and of hidden states, and then the bias of each.
size_t parameters_each(const Call& call) { return call.argument("has_biases").toBool() ? 4 : 2; }

// h, and of an LSTM c, of all layers and directions [layers directions, batch, hidden]; kNone for zeros.
Result<std::array<ValueId, 2>> first_states(Lowering& lowering, const Call& call) {
  std::array<ValueId, 2> states{program::kNone, program::kNone};
  const auto tensor_of = [](const Call& c, size_t place) -> at::Tensor {
    const c10::IValue& hx = c.argument("hx");
    return hx.isTensor() ? hx.toTensor() : hx.toListRef()[place].toTensor();
  };
  for (size_t i = 0; i < (is_lstm(call) ? 2U : 1U); ++i) {
    const at::Tensor given = tensor_of(call, i);
    const bool is_constant = !lowering.is_activation(given);
    if (is_constant && given.count_nonzero().item<int64_t>() == 0 &&
        tensor_of(lowering.twin(), i).count_nonzero().item<int64_t>() == 0)
      continue;
    if (is_constant) {
      BITLAB_TRY(states[i], lowering.constant_of(call, [&](const Call& c) { return tensor_of(c, i); }));
    } else {
      BITLAB_TRY(states[i], lowering.value_of(call, given));
    }
  }
  return states;
}

// The state of one layer and direction as [batch, hidden].
Result<ValueId> state_at(Lowering& lowering, ValueId states, int64_t place) {
  if (states == program::kNone) return states;
  BITLAB_TRY(const ValueId one, slice_of(lowering, states, 0, place, 1));
  const program::Shape& shape = lowering.shape(one);
  return lowering.reshape(one, {shape[1], shape[2]});
}

// All of these, which are [batch, hidden] each, as [states, batch, hidden].
Result<ValueId> stacked(Lowering& lowering, const std::vector<ValueId>& states) {
  std::vector<ValueId> parts;
  for (const ValueId state : states) {
    program::Shape shape = lowering.shape(state);
    shape.insert(shape.begin(), 1);
    BITLAB_TRY(parts.emplace_back(), lowering.reshape(state, shape));
  }
  if (parts.size() == 1) return parts[0];
  return lowering.node(Op::cat, parts, {{"dim", int64_t{0}}});
}

}  // namespace

bool is_recurrent_node(const Call& call) {
  if (call.op != "aten::lstm.input" && call.op != "aten::gru.input") return true;
  const auto parameters = call.argument("params").toListRef();
  const int64_t directions = call.argument("bidirectional").toBool() ? 2 : 1;
  const bool has_projections = static_cast<int64_t>(parameters.size()) != call.argument("num_layers").toInt() * directions *
                                                                              static_cast<int64_t>(parameters_each(call));
  const bool drops = call.argument("train").toBool() && call.argument("dropout").toDouble() > 0;
  return !has_projections && !drops && call.argument("input").toTensor().scalar_type() == at::kFloat;
}

Status lower_recurrent(Lowering& lowering, const Call& call) {
  const auto parameters = call.argument("params").toListRef();
  const bool is_batch_first = call.argument("batch_first").toBool(), has_biases = call.argument("has_biases").toBool();
  const int64_t directions = call.argument("bidirectional").toBool() ? 2 : 1;
  BITLAB_TRY(ValueId x, lowering.activation(call, "input"));
  if (!is_batch_first) {
    BITLAB_TRY(x, permuted(lowering, x, {1, 0, 2}));
  }
  BITLAB_TRY(const auto first, first_states(lowering, call));
  std::array<std::vector<ValueId>, 2> last;  // h and c
  for (int64_t layer = 0; layer < call.argument("num_layers").toInt(); ++layer) {
    std::vector<ValueId> sides;
    for (int64_t direction = 0; direction < directions; ++direction) {
      const int64_t place = layer * directions + direction;
      const size_t begin = static_cast<size_t>(place) * parameters_each(call);
      const auto parameter = [&](size_t i) { return lowering.constant(parameters[begin + i].toTensor()); };
      const auto bias = [&](size_t i) { return has_biases ? parameter(i) : program::kNone; };
      BITLAB_TRY(const ValueId gates, lowering.node(Op::linear, {x, parameter(0), bias(2)}));
      BITLAB_TRY(const ValueId h0, state_at(lowering, first[0], place));
      BITLAB_TRY(const ValueId c0, state_at(lowering, first[1], place));
      BITLAB_TRY(const std::vector<ValueId> made,
                 lowering.nodes(Op::recurrent, {gates, parameter(1), bias(3), h0, c0},
                                {{"cell", std::string(is_lstm(call) ? "lstm" : "gru")}, {"reverse", direction}}));
      sides.push_back(made[0]);
      for (size_t i = 0; i + 1 < made.size(); ++i) last[i].push_back(made[i + 1]);
    }
    x = sides[0];
    if (directions == 2) {
      BITLAB_TRY(x, lowering.node(Op::cat, sides, {{"dim", int64_t{2}}}));
    }
  }
  if (!is_batch_first) {
    BITLAB_TRY(x, permuted(lowering, x, {1, 0, 2}));
  }
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, x));
  for (size_t i = 1; i < call.outputs.size(); ++i) {
    const at::Tensor& output = call.outputs[i].toTensor();
    if (!lowering.is_read(output)) {
      lowering.lose(output);
      continue;
    }
    BITLAB_TRY(const ValueId states, stacked(lowering, last[i - 1]));
    BITLAB_RETURN_IF_ERROR(lowering.finish(call, states, output));
  }
  return {};
}

}  // namespace bitlab::deploy
