// Recurrent layers: for each layer and direction a product of the inputs of all tokens, and a node that goes from state to state.
#include <array>
#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
namespace {

bool is_lstm(const Call& call) { return call.op.starts_with("aten::lstm"); }

bool is_plain(const Call& call) { return call.op.starts_with("aten::rnn"); }

int64_t directions_of(const Call& call) { return call.argument("bidirectional").toBool() ? 2 : 1; }

// In a direction of a layer: weights of inputs and of hidden states, and then the bias of each; last, where a cell's states are projected, the weight of that.
size_t parameters_each(const Call& call) {
  return call.argument("params").toListRef().size() /
         static_cast<size_t>(call.argument("num_layers").toInt() * directions_of(call));
}
bool has_projections(const Call& call) { return parameters_each(call) % 2 == 1; }

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

// One direction of a layer.
class OneDirection {
 public:
  OneDirection(Lowering& lowering, const Call& call, int64_t place) : lowering_(lowering), call_(call) {
    const auto parameters = call.argument("params").toListRef();
    for (size_t i = 0; i < parameters_each(call); ++i)
      parameters_.push_back(parameters[static_cast<size_t>(place) * parameters_each(call) + i].toTensor());
    is_reverse_ = directions_of(call) == 2 && place % 2 == 1;
  }

  // The states of all tokens, the last one, and of an LSTM its c.
  Result<std::vector<ValueId>> states(ValueId x, ValueId h0, ValueId c0) const {
    BITLAB_TRY(ValueId gates, lowering_.node(Op::linear, {x, lowering_.constant(parameters_[0]), bias(2)}));
    if (is_plain(call_)) {
      BITLAB_TRY(gates, with_open_gates(gates));
    }
    if (has_projections(call_) && h0 != program::kNone) {
      BITLAB_TRY(gates, with_first_state(gates, h0));
      h0 = program::kNone;
    }
    BITLAB_TRY(std::vector<ValueId> made,
               lowering_.nodes(Op::recurrent, {gates, hidden_weight(), hidden_bias(), h0, c0},
                               {{"cell", std::string(is_lstm(call_) ? "lstm" : "gru")}, {"reverse", int64_t{is_reverse_}}}));
    if (has_projections(call_))
      for (size_t i = 0; i < 2; ++i) {
        BITLAB_TRY(made[i], lowering_.node(Op::linear, {made[i], lowering_.constant(parameters_.back())}));
      }
    return made;
  }

 private:
  bool has_biases() const { return call_.argument("has_biases").toBool(); }
  ValueId bias(size_t i) const { return has_biases() ? lowering_.constant(parameters_[i]) : program::kNone; }

  // tanh(x + u) is a GRU's state where its reset gate is 1 and its update gate 0.
  Result<ValueId> with_open_gates(ValueId x) const {
    constexpr double kOpen = 100;  // what sigmoid() makes 1 of in float32
    const program::Shape shape = lowering_.shape(x);
    std::vector<ValueId> parts;
    for (const double gate : {kOpen, -kOpen}) {
      BITLAB_TRY(parts.emplace_back(), expanded(lowering_, lowering_.number(gate, at::kFloat), shape));
    }
    parts.push_back(x);
    return lowering_.node(Op::cat, parts, {{"dim", int64_t{2}}});
  }
  at::Tensor behind_open_gates(const at::Tensor& own) const {
    std::vector<int64_t> sizes = own.sizes().vec();
    sizes[0] *= 2;
    return at::cat({at::zeros(sizes, own.options()), own});
  }

  // States that a layer projects are read by products alone, so that these are of the cell's own states, with the product of both weights.
  ValueId hidden_weight() const {
    const at::Tensor& weight = parameters_[1];
    if (is_plain(call_)) return lowering_.constant(weight, behind_open_gates(weight));
    if (!has_projections(call_)) return lowering_.constant(weight);
    return lowering_.constant(weight, weight.to(at::kDouble).matmul(parameters_.back().to(at::kDouble)).to(at::kFloat));
  }
  ValueId hidden_bias() const {
    if (!is_plain(call_) || !has_biases()) return bias(3);
    return lowering_.constant(parameters_[3], behind_open_gates(parameters_[3]));
  }

  // A first state that is projected already: its product is added to the gates of the first token.
  Result<ValueId> with_first_state(ValueId gates, ValueId h0) const {
    const program::Shape shape = lowering_.shape(gates);
    const program::Dim tokens = shape[1];
    BITLAB_TRY(ValueId product, lowering_.node(Op::linear, {h0, lowering_.constant(parameters_[1])}));
    BITLAB_TRY(product, lowering_.reshape(product, {shape[0], 1, shape[2]}));
    BITLAB_TRY(ValueId places, counted_to(lowering_, tokens));
    BITLAB_TRY(places, lowering_.reshape(places, {tokens, 1}));
    BITLAB_TRY(const ValueId last, lowering_.size_value(tokens));
    const Term place(lowering_, places), end = Term(lowering_, last) + -1.0;
    const Term is_first = is_reverse_ ? place.with(Op::equal, end) : place.with(Op::equal, 0);
    const Term added = is_first.choose(Term(lowering_, product), Term(lowering_, lowering_.number(0, at::kFloat)));
    return (Term(lowering_, gates) + added).value();
  }

  Lowering& lowering_;
  const Call& call_;
  std::vector<at::Tensor> parameters_;
  bool is_reverse_ = false;
};

}  // namespace

bool is_recurrent_node(const Call& call) {
  if (call.op != "aten::lstm.input" && call.op != "aten::gru.input" && call.op != "aten::rnn_tanh.input") return true;
  // Where products are intercepted (convert/interception.h), those within a layer that is none of ours may be.
  const bool may_change = c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::DeferredInit);
  if (may_change && (is_plain(call) || has_projections(call))) return false;
  const bool drops = call.argument("train").toBool() && call.argument("dropout").toDouble() > 0;
  return !drops && call.argument("input").toTensor().scalar_type() == at::kFloat;
}

Status lower_recurrent(Lowering& lowering, const Call& call) {
  const bool is_batch_first = call.argument("batch_first").toBool();
  const int64_t directions = directions_of(call);
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
      BITLAB_TRY(const ValueId h0, state_at(lowering, first[0], place));
      BITLAB_TRY(const ValueId c0, state_at(lowering, first[1], place));
      BITLAB_TRY(const std::vector<ValueId> made, OneDirection(lowering, call, place).states(x, h0, c0));
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
