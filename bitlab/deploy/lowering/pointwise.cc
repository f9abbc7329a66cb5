// Element by element.
#include <algorithm>

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/where.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// In the dtype that LibTorch computes in: that of the result, or of a comparison's operands.
Status lower_binary(Lowering& lowering, const Call& call, Op op, at::ScalarType type) {
  double alpha = 1;
  for (const Argument& argument : call.arguments) {
    if (argument.name == "alpha") alpha = argument.value.toScalar().toDouble();
    if (argument.name == "rounding_mode" && !argument.value.isNone())
      return lower_rounded_division(lowering, call, argument.value.toStringRef() == "floor");
  }
  BITLAB_TRY(const ValueId a, lowering.operand_as(call, "self", type));
  ValueId b = program::kNone;
  if (const at::Tensor other = call.tensor("other"); alpha != 1 && other.defined() && !lowering.is_activation(other)) {
    BITLAB_TRY(b, lowering.constant_of(call, [&](const Call& c) { return c.tensor("other").to(type).mul(alpha).to(type); }));
  } else {
    BITLAB_TRY(b, lowering.operand_as(call, "other", type));
    BITLAB_TRY(b, scaled(lowering, b, alpha));
  }
  return lowering.lower_to(call, op, {a, b});
}

Status lower_arithmetic(Lowering& lowering, const Call& call, Op op) {
  const at::ScalarType type = output_of(call).scalar_type();
  if (op == Op::mul && type == at::kBool) return lower_and(lowering, call);
  if (op == Op::add && type == at::kBool) return lower_or(lowering, call);
  if (op == Op::mul && at::isComplexType(type)) return lower_complex_mul(lowering, call);
  if (at::isComplexType(type)) return lower_complex_arithmetic(lowering, call, op);
  return lower_binary(lowering, call, op, type);
}

Status lower_comparison(Lowering& lowering, const Call& call, Op op, bool swapped = false) {
  const c10::IValue& other = call.argument("other");
  const at::Tensor& self = call.argument("self").toTensor();
  const at::ScalarType type =
      other.isTensor() ? at::result_type(self, other.toTensor()) : at::result_type(self, other.toScalar());
  BITLAB_TRY(const ValueId a, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId b, lowering.operand_as(call, "other", type));
  return lowering.lower_to(call, op, swapped ? std::vector{b, a} : std::vector{a, b});
}

// LibTorch's gelu has two forms.
Status lower_unary(Lowering& lowering, const Call& call, Op op) {
  if (op == Op::abs && call.argument("self").toTensor().is_complex()) return lower_complex_abs(lowering, call);
  if (output_of(call).is_complex()) return lower_complex_unary(lowering, call, op);
  if (op == Op::gelu && call.argument("approximate").toStringRef() == "tanh") op = Op::gelu_tanh;
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  if (op == Op::abs && !at::isFloatingType(type)) {
    BITLAB_TRY(const ValueId negative, with_number(lowering, Op::mul, x, -1));
    return lowering.lower_to(call, Op::maximum, {x, negative});
  }
  return lowering.lower_to(call, op, {x});
}

// max(x, 0) + f(min(x, 0)), of a function that is 0 at 0.
template <class F>
Status lower_below_zero(Lowering& lowering, const Call& call, F f) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId above, with_number(lowering, Op::maximum, x, 0));
  BITLAB_TRY(ValueId below, with_number(lowering, Op::minimum, x, 0));
  BITLAB_TRY(below, f(below));
  return lowering.lower_to(call, Op::add, {above, below});
}

// log(1 + e^(beta x)) / beta as max(x, 0) + log1p(e^(-|beta x|)) / beta, which does not overflow.
Result<ValueId> softplus(Lowering& lowering, ValueId x, double beta) {
  BITLAB_TRY(ValueId y, lowering.node(Op::abs, {x}));
  BITLAB_TRY(y, with_number(lowering, Op::mul, y, -beta));
  BITLAB_TRY(y, lowering.node(Op::exp, {y}));
  BITLAB_TRY(y, lowering.node(Op::log1p, {y}));
  if (beta != 1) {
    BITLAB_TRY(y, with_number(lowering, Op::div, y, beta));
  }
  BITLAB_TRY(const ValueId above, with_number(lowering, Op::maximum, x, 0));
  return lowering.node(Op::add, {above, y});
}

// min(max(x + 3, 0), 6)
Result<ValueId> relu6_of_3_more(Lowering& lowering, ValueId x) {
  BITLAB_TRY(ValueId y, with_number(lowering, Op::add, x, 3));
  BITLAB_TRY(y, with_number(lowering, Op::maximum, y, 0));
  return with_number(lowering, Op::minimum, y, 6);
}

// min(max(x, low), high), of bounds that may be left out.
Status lower_clamped(Lowering& lowering, const Call& call, const char* low, const char* high) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type));
  for (const auto& [bound, op] : {std::pair{low, Op::maximum}, std::pair{high, Op::minimum}}) {
    if (bound == nullptr || !given(call, bound)) continue;
    BITLAB_TRY(const ValueId limit, lowering.operand_as(call, bound, type));
    BITLAB_TRY(x, lowering.node(op, {x, limit}));
  }
  return lowering.finish(call, x);
}

}  // namespace

Result<ValueId> with_number(Lowering& lowering, Op op, ValueId x, double number) {
  return lowering.node(op, {x, lowering.number(number, scalar_type(lowering.dtype(x)))});
}

Result<ValueId> scaled(Lowering& lowering, ValueId x, double number) {
  return number == 1 ? Result<ValueId>(x) : with_number(lowering, Op::mul, x, number);
}

#define BITLAB_UNARY(name, exactness) \
  Status lower_##name(Lowering& lowering, const Call& call) { return lower_unary(lowering, call, Op::name); }
#define BITLAB_BINARY(name, exactness) \
  Status lower_##name(Lowering& lowering, const Call& call) { return lower_arithmetic(lowering, call, Op::name); }
#include "bitlab/program/elementwise.def"

Status lower_eq(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::equal); }
Status lower_ne(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::not_equal); }
Status lower_lt(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::less); }
Status lower_le(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::less_equal); }
Status lower_gt(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::less, true); }
Status lower_ge(Lowering& lowering, const Call& call) { return lower_comparison(lowering, call, Op::less_equal, true); }

namespace {

// Of bools, or bit by bit of integers.
Status lower_logical(Lowering& lowering, const Call& call, Op op, Op of_bits) {
  const at::ScalarType type = output_of(call).scalar_type();
  return type == at::kBool ? lower_binary(lowering, call, op, type) : lower_binary(lowering, call, of_bits, type);
}

}  // namespace

Status lower_and(Lowering& lowering, const Call& call) {
  return lower_logical(lowering, call, Op::minimum, Op::bitwise_and);
}
Status lower_or(Lowering& lowering, const Call& call) { return lower_logical(lowering, call, Op::maximum, Op::bitwise_or); }
Status lower_xor(Lowering& lowering, const Call& call) {
  return lower_logical(lowering, call, Op::not_equal, Op::bitwise_xor);
}

Status lower_not(Lowering& lowering, const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  if (type != at::kBool) return lowering.lower_to(call, Op::bitwise_xor, {x, lowering.number(-1, type)});
  return lowering.lower_to(call, Op::equal, {x, lowering.number(false, at::kBool)});
}

Status lower_where(Lowering& lowering, const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(const ValueId condition, lowering.operand_as(call, "condition", at::kBool));
  BITLAB_TRY(const ValueId a, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId b, lowering.operand_as(call, "other", type));
  return lowering.lower_to(call, Op::where, {condition, a, b});
}

namespace {

// Which values of a matrix lie on one side of a diagonal, bool [rows, columns].
Result<ValueId> kept_side(Lowering& lowering, const Call& call, program::Dim rows, program::Dim columns, bool is_lower) {
  if (rows.is_number() && columns.is_number())
    return lowering.constant_of(call, [&](const Call& c) {
      const at::Tensor ones = at::ones({rows.factor, columns.factor}, at::kBool);
      const int64_t diagonal = c.argument("diagonal").toInt();
      return is_lower ? ones.tril(diagonal) : ones.triu(diagonal);
    });
  const auto diagonal_in = [](const Call& c) { return static_cast<double>(c.argument("diagonal").toInt()); };
  BITLAB_TRY(const ValueId diagonal, lowering.number_in_all(call, diagonal_in, at::kLong));
  BITLAB_TRY(ValueId row, counted_to(lowering, rows));
  BITLAB_TRY(row, lowering.reshape(row, {rows, 1}));
  BITLAB_TRY(row, lowering.node(Op::add, {row, diagonal}));
  BITLAB_TRY(const ValueId column, counted_to(lowering, columns));
  return is_lower ? lowering.node(Op::less_equal, {column, row}) : lowering.node(Op::less_equal, {row, column});
}

// What lies on one side of a diagonal; zeros elsewhere.
Status lower_triangle(Lowering& lowering, const Call& call, bool is_lower) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const program::Shape& shape = lowering.shape(x);
  BITLAB_TRY(const ValueId kept, kept_side(lowering, call, shape[shape.size() - 2], shape.back(), is_lower));
  const ValueId zero = lowering.number(0, output_of(call).scalar_type());
  return lowering.lower_to(call, Op::where, {kept, x, zero});
}

}  // namespace

Status lower_tril(Lowering& lowering, const Call& call) { return lower_triangle(lowering, call, true); }
Status lower_triu(Lowering& lowering, const Call& call) { return lower_triangle(lowering, call, false); }

Status lower_clamp(Lowering& lowering, const Call& call) { return lower_clamped(lowering, call, "min", "max"); }
Status lower_clamp_min(Lowering& lowering, const Call& call) { return lower_clamped(lowering, call, "min", nullptr); }
Status lower_clamp_max(Lowering& lowering, const Call& call) { return lower_clamped(lowering, call, nullptr, "max"); }
Status lower_hardtanh(Lowering& lowering, const Call& call) { return lower_clamped(lowering, call, "min_val", "max_val"); }

Status lower_hardsigmoid(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(ValueId y, relu6_of_3_more(lowering, x));
  BITLAB_TRY(y, with_number(lowering, Op::div, y, 6));
  return lowering.finish(call, y);
}

Status lower_hardswish(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(ValueId y, relu6_of_3_more(lowering, x));
  BITLAB_TRY(y, lowering.node(Op::mul, {x, y}));
  BITLAB_TRY(y, with_number(lowering, Op::div, y, 6));
  return lowering.finish(call, y);
}

Status lower_leaky_relu(Lowering& lowering, const Call& call) {
  return lower_below_zero(lowering, call, [&](ValueId below) {
    return with_number(lowering, Op::mul, below, call.argument("negative_slope").toScalar().toDouble());
  });
}

Status lower_prelu(Lowering& lowering, const Call& call) {
  return lower_below_zero(lowering, call, [&](ValueId below) -> Result<ValueId> {
    BITLAB_TRY(const ValueId weight, lowering.operand(call, "weight"));
    return lowering.node(Op::mul, {below, weight});
  });
}

// scale (max(x, 0) + alpha (e^(input_scale min(x, 0)) - 1))
Status lower_elu(Lowering& lowering, const Call& call) {
  const auto number = [&](const char* name) { return call.argument(name).toScalar().toDouble(); };
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId above, with_number(lowering, Op::maximum, x, 0));
  BITLAB_TRY(ValueId below, with_number(lowering, Op::minimum, x, 0));
  BITLAB_TRY(below, scaled(lowering, below, number("input_scale")));
  BITLAB_TRY(below, lowering.node(Op::expm1, {below}));
  BITLAB_TRY(below, scaled(lowering, below, number("alpha")));
  BITLAB_TRY(ValueId y, lowering.node(Op::add, {above, below}));
  BITLAB_TRY(y, scaled(lowering, y, number("scale")));
  return lowering.finish(call, y);
}

Status lower_softplus(Lowering& lowering, const Call& call) {
  const double beta = call.argument("beta").toScalar().toDouble(),
               threshold = call.argument("threshold").toScalar().toDouble();
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId y, softplus(lowering, x, beta));
  // Above the threshold it is x; from 20 on, as unasked, that is the same number.
  if (threshold >= 20) return lowering.finish(call, y);
  BITLAB_TRY(const ValueId argument, scaled(lowering, x, beta));
  BITLAB_TRY(const ValueId is_soft, with_number(lowering, Op::less_equal, argument, threshold));
  return lowering.lower_to(call, Op::where, {is_soft, y, x});
}

Status lower_mish(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(ValueId y, softplus(lowering, x, 1));
  BITLAB_TRY(y, lowering.node(Op::tanh, {y}));
  return lowering.lower_to(call, Op::mul, {x, y});
}

// -softplus(-x)
Status lower_log_sigmoid(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(x, with_number(lowering, Op::mul, x, -1));
  BITLAB_TRY(x, softplus(lowering, x, 1));
  BITLAB_TRY(x, with_number(lowering, Op::mul, x, -1));
  return lowering.finish(call, x);
}

// x > threshold ? x : value
Status lower_threshold(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId threshold, lowering.operand(call, "threshold"));
  BITLAB_TRY(const ValueId value, lowering.operand(call, "value"));
  BITLAB_TRY(const ValueId is_above, lowering.node(Op::less, {threshold, x}));
  return lowering.lower_to(call, Op::where, {is_above, x, value});
}

// The first half of a dimension, gated by the second.
Status lower_glu(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const program::Shape& shape = lowering.shape(x);
  const int64_t dim = wrap_dim(call.argument("dim").toInt(), static_cast<int64_t>(shape.size()));
  const program::Dim whole = shape[static_cast<size_t>(dim)], half = with_factor(whole, whole.factor / 2);
  BITLAB_TRY(const auto halves, lowering.nodes(Op::split, {x}, {{"dim", dim}, {"sizes", program::Shape{half, half}}}));
  BITLAB_TRY(const ValueId gate, lowering.node(Op::sigmoid, {halves[1]}));
  return lowering.lower_to(call, Op::mul, {halves[0], gate});
}

Status lower_floor_divide(Lowering& lowering, const Call& call) { return lower_rounded_division(lowering, call, true); }
Status lower_shift_left(Lowering& lowering, const Call& call) { return lower_arithmetic(lowering, call, Op::shift_left); }
Status lower_shift_right(Lowering& lowering, const Call& call) { return lower_arithmetic(lowering, call, Op::shift_right); }

// self + value tensor1 tensor2
Status lower_addcmul(Lowering& lowering, const Call& call) {
  const double value = call.argument("value").toScalar().toDouble();
  BITLAB_TRY(const ValueId self, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId a, lowering.operand(call, "tensor1"));
  BITLAB_TRY(const ValueId b, lowering.operand(call, "tensor2"));
  if (!lowering.is_activation(call.tensor("tensor1")) && !lowering.is_activation(call.tensor("tensor2")))
    return unsupported(call, "a factor that is computed", "two constants");
  BITLAB_TRY(ValueId product, lowering.node(Op::mul, {a, b}));
  BITLAB_TRY(product, scaled(lowering, product, value));
  BITLAB_RETURN_IF_ERROR(lowering.lower_to(call, Op::add, {self, product}));
  lowering.set_exactness(program::Exactness::kBounded);  // LibTorch may round a product and the sum at once
  return {};
}

Status lower_reciprocal(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", output_of(call).scalar_type()));
  return lowering.lower_to(call, Op::div, {lowering.number(1, at::kFloat), x});
}

// Into memory of another dtype and shape.
Status lower_copy(Lowering& lowering, const Call& call) {
  const at::Tensor& target = call.argument("self").toTensor();
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "src", target.scalar_type()));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, expanded(lowering, x, shape));
  return lowering.finish(call, x);
}

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

Status lower_square(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.lower_to(call, Op::mul, {x, x});
}

// Of the exponents that LibTorch computes by products and roots.
Status lower_pow(Lowering& lowering, const Call& call) {
  if (output_of(call).is_complex()) return lower_complex_pow(lowering, call);
  const double exponent = call.argument("exponent").toScalar().toDouble();
  if (exponent == 2) return lower_square(lowering, call);
  if (exponent == 0.5) return lower_unary(lowering, call, Op::sqrt);
  if (exponent == -0.5) return lower_unary(lowering, call, Op::rsqrt);
  if (exponent == -1) return lower_reciprocal(lowering, call);
  return lower_general_pow(lowering, call);
}

Status lower_neg(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.lower_to(call, Op::mul, {x, lowering.number(-1, output_of(call).scalar_type())});
}

Status lower_rsub(Lowering& lowering, const Call& call) {
  if (call.argument("alpha").toScalar().toDouble() != 1)
    return unsupported(call, "alpha 1", describe(call.argument("alpha")));
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId number, lowering.operand_as(call, "other", type));
  return lowering.lower_to(call, Op::sub, {number, x});
}

// A constant mask of attention scores, filled with what vanishes in the softmax behind, is added to them.
Status lower_masked_fill(Lowering& lowering, const Call& call) {
  constexpr double kVanishes = -1e4;
  const at::ScalarType type = output_of(call).scalar_type();
  const c10::IValue& fill = call.argument("value");
  const bool is_added = !lowering.is_activation(call.argument("mask").toTensor()) && fill.isScalar() && type == at::kFloat &&
                        fill.toScalar().toDouble() <= kVanishes && lowering.is_read_by(call, "softmax");
  if (!is_added) {
    BITLAB_TRY(const ValueId mask, lowering.operand_as(call, "mask", at::kBool));
    BITLAB_TRY(const ValueId value, lowering.operand_as(call, "value", type));
    BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
    return lowering.lower_to(call, Op::where, {mask, value, x});
  }
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const auto options = at::TensorOptions().dtype(at::kFloat);
  BITLAB_TRY(const ValueId added, lowering.constant_of(call, [&](const Call& c) {
    return at::where(c.argument("mask").toTensor(), at::full({1}, fill.toScalar(), options), at::full({1}, 0, options));
  }));
  BITLAB_TRY(const ValueId y, lowering.node(Op::add, {x, added}));
  return lowering.finish(call, y);
}

// LibTorch's attention asks whether its inputs are the same tensor: they are, or they differ, whatever the values.
Status lower_same_values(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId a, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.activation(call, "other"));
  if ((a == b) == call.outputs.at(0).toBool()) return {};
  return unsupported(call, "a comparison that does not depend on values", "one of two computed tensors");
}

}  // namespace bitlab::deploy
