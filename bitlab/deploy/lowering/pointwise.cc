// Element by element, softmax and means.
#include <algorithm>

#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

Status lower_binary(Lowering& lowering, const Call& call, Op op) {
  for (const Argument& argument : call.arguments) {
    if (argument.name == "alpha" && argument.value.toScalar().toDouble() != 1)
      return unsupported(call, "alpha 1", describe(argument.value));
    if (argument.name == "rounding_mode" && !argument.value.isNone())
      return unsupported(call, "a division that is not rounded", describe(argument.value));
  }
  BITLAB_TRY(const ValueId a, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.operand(call, "other"));
  return lowering.lower_to(call, op, {a, b});
}

}  // namespace

Status lower_identity(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, call.arguments.at(0).name));
  return lowering.finish(call, x);
}

Status lower_dropout(Lowering& lowering, const Call& call) {
  const double p = call.argument("p").toDouble();
  if (call.argument("train").toBool() && p != 0)
    return unsupported(call, "a dropout that is off in eval, as with F::DropoutFuncOptions().training(is_training())",
                       fmt::format("one that is on, with p = {}", p));
  return lower_identity(lowering, call);
}

Status lower_relu(Lowering& lowering, const Call& call) { return lower_unary(lowering, call, Op::relu); }
Status lower_silu(Lowering& lowering, const Call& call) { return lower_unary(lowering, call, Op::silu); }
Status lower_sigmoid(Lowering& lowering, const Call& call) { return lower_unary(lowering, call, Op::sigmoid); }
Status lower_tanh(Lowering& lowering, const Call& call) { return lower_unary(lowering, call, Op::tanh); }

Status lower_gelu(Lowering& lowering, const Call& call) {
  const std::string& form = call.argument("approximate").toStringRef();
  return lower_unary(lowering, call, form == "tanh" ? Op::gelu_tanh : Op::gelu);
}

Status lower_square(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.lower_to(call, Op::mul, {x, x});
}

// Of the exponents that LibTorch computes by products.
Status lower_pow(Lowering& lowering, const Call& call) {
  const double exponent = call.argument("exponent").toScalar().toDouble();
  if (exponent == 2) return lower_square(lowering, call);
  if (exponent != 3) return unsupported(call, "the exponent 2 or 3", describe(call.argument("exponent")));
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId square, lowering.node(Op::mul, {x, x}));
  return lowering.lower_to(call, Op::mul, {square, x});
}

Status lower_neg(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.lower_to(call, Op::mul, {x, lowering.constant(at::full({1}, -1, at::kFloat))});
}

Status lower_add(Lowering& lowering, const Call& call) { return lower_binary(lowering, call, Op::add); }
Status lower_sub(Lowering& lowering, const Call& call) { return lower_binary(lowering, call, Op::sub); }
Status lower_mul(Lowering& lowering, const Call& call) { return lower_binary(lowering, call, Op::mul); }
Status lower_div(Lowering& lowering, const Call& call) { return lower_binary(lowering, call, Op::div); }

Status lower_rsub(Lowering& lowering, const Call& call) {
  if (call.argument("alpha").toScalar().toDouble() != 1)
    return unsupported(call, "alpha 1", describe(call.argument("alpha")));
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId number, lowering.operand(call, "other"));
  return lowering.lower_to(call, Op::sub, {number, x});
}

// Masks of attention scores: what is filled in must vanish in the softmax behind, so that it can be added.
Status lower_masked_fill(Lowering& lowering, const Call& call) {
  constexpr double kVanishes = -1e4;
  const at::Tensor& mask = call.argument("mask").toTensor();
  const double value = call.argument("value").toScalar().toDouble();
  const bool is_constant = !lowering.is_activation(mask);
  if (!is_constant || value > kVanishes)
    return unsupported(call, "a constant mask, filled with -1e4 or less",
                       fmt::format("{} mask filled with {}", is_constant ? "a constant" : "a computed", value));
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const auto options = at::TensorOptions().dtype(at::kFloat);
  BITLAB_TRY(const ValueId added, lowering.constant_of(call, [&](const Call& c) {
    return at::where(c.argument("mask").toTensor(), at::full({1}, value, options), at::full({1}, 0, options));
  }));
  BITLAB_TRY(const ValueId y, lowering.node(Op::add, {x, added}));
  return lowering.finish(call, y);
}

// LibTorch's attention asks whether its inputs are the same tensor: they are, or they differ, whatever the values.
Status lower_equal(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId a, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.activation(call, "other"));
  if ((a == b) == call.outputs.at(0).toBool()) return {};
  return unsupported(call, "a comparison that does not depend on values", "one of two computed tensors");
}

Status lower_softmax(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t rank = call.argument("self").toTensor().dim();
  return lowering.lower_to(call, Op::softmax, {x}, {{"dim", wrap_dim(call.argument("dim").toInt(), rank)}});
}

// The averaged dimensions are brought to the end and joined.
Status lower_mean(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const program::Shape shape = lowering.shape(x);
  const auto rank = static_cast<int64_t>(shape.size());
  Sizes averaged = call.argument("dim").toIntVector(), order;
  for (int64_t& dim : averaged) dim = wrap_dim(dim, rank);
  std::sort(averaged.begin(), averaged.end());
  program::Shape kept;
  program::Dim values(1);
  for (int64_t dim = 0; dim < rank; ++dim) {
    if (std::binary_search(averaged.begin(), averaged.end(), dim)) {
      values = values * shape[static_cast<size_t>(dim)];
    } else {
      order.push_back(dim);
      kept.push_back(shape[static_cast<size_t>(dim)]);
    }
  }
  order.insert(order.end(), averaged.begin(), averaged.end());
  if (!std::is_sorted(order.begin(), order.end())) {
    BITLAB_TRY(x, lowering.node(Op::permute, {x}, {{"dims", order}}));
  }
  program::Shape joined = kept;
  joined.push_back(values);
  BITLAB_TRY(x, lowering.reshape(x, joined));
  BITLAB_TRY(x, lowering.node(Op::mean, {x}));
  BITLAB_TRY(const program::Shape target, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, target));
  return lowering.finish(call, x);
}

}  // namespace bitlab::deploy
