// Functions that are written with others.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numbers>
#include <optional>

#include <ATen/ops/full.h>
#include <ATen/ops/result_type.h>

#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
namespace {

// The quotient of integers, rounded down and then towards zero: one more where it was not whole and below 0.
Term truncated_quotient(const Term& a, const Term& b) {
  const Term quotient = a.with(Op::floor_divide, b), is_part = (quotient * b).with(Op::not_equal, a),
             is_below = quotient < 0;
  return quotient + is_part.with(Op::minimum, is_below).cast_like(quotient);
}
Term truncated(const Term& x) {
  const Term up = x.of(Op::ceil), down = x.of(Op::floor);
  return (x < 0).choose(up, down);
}

double number_of(const Call& call, const char* name) { return call.argument(name).toScalar().toDouble(); }

// x^n by squaring.
Term whole_power(const Term& x, int n) {
  std::optional<Term> power;
  Term square = x;
  for (;; square = square * square) {
    if ((n & 1) != 0) power = power ? *power * square : square;
    n >>= 1;
    if (n == 0) return *power;
  }
}

// e^(y log |x|), with the sign that x^y has for a negative x, and NaN where it has none, as log x. x^0 is 1.
Term power(const Term& x, const Term& exponent) {
  const Term y = x.with(Op::equal, x).choose(exponent, exponent);  // computed, which functions want
  const Term size = (y * x.of(Op::abs).of(Op::log)).of(Op::exp), whole = y.of(Op::floor);
  const Term odd = (whole * 0.5).of(Op::floor) * 2.0 < whole;
  const Term with_sign = odd.choose(-size, size), none = x.of(Op::log);
  const Term negative = whole.with(Op::equal, y).choose(with_sign, none);
  return y.with(Op::equal, 0).choose(1, (x < 0).choose(negative, size));
}

using TwoTerms = Term (*)(const Term& x, const Term& y);
Status lower_formula(Lowering& lowering, const Call& call, TwoTerms f, Rounds rounds = Rounds::kOften,
                     const char* second = "other") {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  const Term x = operand(lowering, call), y = operand(lowering, call, second);
  return finish(lowering, call, f(x, y), rounds);
}

}  // namespace

Status lower_erfc(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x.of(Op::erf).behind(Op::sub, 1); });
}
Status lower_log2(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x.of(Op::log) * std::numbers::log2e; });
}
Status lower_log10(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x.of(Op::log) * std::numbers::log10e; });
}
Status lower_exp2(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return (x * std::numbers::ln2).of(Op::exp); });
}
Status lower_sinh(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term up = x.of(Op::expm1), down = (-x).of(Op::expm1);
    return (up - down) * 0.5;
  });
}
Status lower_cosh(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term up = x.of(Op::exp), down = (-x).of(Op::exp);
    return (up + down) * 0.5;
  });
}
Status lower_tan(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term sin = x.of(Op::sin), cos = x.of(Op::cos);
    return sin / cos;
  });
}
Status lower_sign(Lowering& l, const Call& call) {
  const Term x = operand(l, call), above = (x > 0).cast_like(x), below = (x < 0).cast_like(x);
  return finish(l, call, above - below, Rounds::kOnce);
}
Status lower_trunc(Lowering& l, const Call& call) { return lower_formula(l, call, truncated, Rounds::kOnce); }
Status lower_frac(Lowering& l, const Call& call) {
  return lower_formula(
      l, call, [](const Term& x) { return x - truncated(x); }, Rounds::kOnce);
}
namespace {

// Both in the dtype of the result, of float32 or of integers.
Status lower_of_numbers(Lowering& l, const Call& call, TwoTerms of_floats, TwoTerms of_integers) {
  const Term x = operand(l, call), y = operand(l, call, "other");
  return finish(l, call, (output_of(call).is_floating_point() ? of_floats : of_integers)(x, y));
}

constexpr double kSquaresOverflow = 1e15;  // far below, and beyond it 1 is nothing beside a square

// sqrt(1 - x^2), exact near 1.
Term other_side(const Term& x) {
  const Term below = x.behind(Op::sub, 1), above = x + 1;
  return (below * above).of(Op::sqrt);
}

}  // namespace

Status lower_rounded_division(Lowering& l, const Call& call, bool down) {
  const bool is_float = output_of(call).is_floating_point();
  const Term x = operand(l, call), y = operand(l, call, "other");
  if (is_float) return finish(l, call, down ? (x / y).of(Op::floor) : truncated(x / y), Rounds::kOnce);
  return finish(l, call, down ? x.with(Op::floor_divide, y) : truncated_quotient(x, y), Rounds::kOnce);
}
Status lower_fmod(Lowering& l, const Call& call) {
  return lower_of_numbers(
      l, call, [](const Term& x, const Term& y) { return x - truncated(x / y) * y; },
      [](const Term& x, const Term& y) { return x - truncated_quotient(x, y) * y; });
}
Status lower_remainder(Lowering& l, const Call& call) {
  return lower_of_numbers(
      l, call, [](const Term& x, const Term& y) { return x - (x / y).of(Op::floor) * y; },
      [](const Term& x, const Term& y) { return x - x.with(Op::floor_divide, y) * y; });
}

namespace {

// How many divisions Euclid's algorithm takes at most, for numbers that follow one another in Fibonacci's sequence (Lame 1844).
int most_divisions(at::ScalarType type) {
  const int bits = static_cast<int>(8 * c10::elementSize(type)) - (type == at::kByte ? 0 : 1);
  return static_cast<int>(std::ceil(bits / std::log2(std::numbers::phi))) + 1;
}

// Euclid's algorithm in as many steps as any numbers of the type need; at a remainder of 0 it stays.
Term greatest_common_divisor(const Term& x, const Term& y, at::ScalarType type) {
  Term a = x.with(Op::maximum, -x), b = y.with(Op::maximum, -y);
  for (int i = most_divisions(type); i > 0; --i) {
    const Term divisor = b.with(Op::maximum, 1), rest = a - a.with(Op::floor_divide, divisor) * divisor;
    const Term next = b.with(Op::equal, 0).choose(a, b);
    b = rest;
    a = next;
  }
  return a;
}

Status lower_of_integers(Lowering& l, const Call& call, Term (*f)(const Term& x, const Term& y, at::ScalarType type)) {
  const Term x = operand(l, call), y = operand(l, call, "other");
  return finish(l, call, f(x, y, output_of(call).scalar_type()), Rounds::kOnce);
}

}  // namespace

Status lower_gcd(Lowering& l, const Call& call) { return lower_of_integers(l, call, greatest_common_divisor); }
// |x / gcd y|, 0 where both are 0.
Status lower_lcm(Lowering& l, const Call& call) {
  return lower_of_integers(l, call, [](const Term& x, const Term& y, at::ScalarType type) {
    const Term divisor = greatest_common_divisor(x, y, type).with(Op::maximum, 1);
    const Term multiple = x.with(Op::floor_divide, divisor) * y;
    return multiple.with(Op::maximum, -multiple);
  });
}

// Angles, by the one of a point: of (1, x), and of (sqrt(1 - x^2), x) either way round.
Status lower_atan(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x.with(Op::atan2, 1); });
}
Status lower_asin(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x.with(Op::atan2, other_side(x)); });
}
Status lower_acos(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return other_side(x).with(Op::atan2, x); });
}

// log(|x| + sqrt(x^2 + 1)), with the sign of x; where squares would overflow, log(2 |x|).
Status lower_asinh(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term size = x.of(Op::abs), square = size * size;
    const Term rest = square / ((square + 1).of(Op::sqrt) + 1), near = (size + rest).of(Op::log1p);
    const Term far = size.of(Op::log) + std::numbers::ln2, y = (size > kSquaresOverflow).choose(far, near);
    return (x < 0).choose(-y, x.with(Op::equal, 0).choose(x, y));
  });
}
Status lower_acosh(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term more = x.with(Op::sub, 1), root = (more * (more + 2)).of(Op::sqrt), near = (more + root).of(Op::log1p);
    const Term far = x.of(Op::log) + std::numbers::ln2;
    return (x > kSquaresOverflow).choose(far, near);
  });
}
Status lower_atanh(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term up = x.of(Op::log1p), down = (-x).of(Op::log1p);
    return x.with(Op::equal, 0).choose(x, (up - down) * 0.5);
  });
}
Status lower_hypot(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x, const Term& y) {
    const Term a = x.of(Op::abs), b = y.of(Op::abs), most = a.with(Op::maximum, b), least = a.with(Op::minimum, b);
    const Term ratio = least.with(Op::equal, most).choose(1, least / most);  // of zeros and of infinities, too
    return most * (ratio * ratio + 1).of(Op::sqrt);
  });
}
Status lower_logaddexp(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x, const Term& y) { return log_add_exp(x, y); });
}
Status lower_deg2rad(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x * (std::numbers::pi / 180); });
}
Status lower_rad2deg(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) { return x * (180 / std::numbers::pi); });
}
Status lower_sinc(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term angle = x * std::numbers::pi, sine = angle.of(Op::sin);
    return x.with(Op::equal, 0).choose(1, sine / angle);
  });
}
Status lower_logaddexp2(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x, const Term& y) { return log_add_exp(x, y, std::numbers::ln2); });
}
Status lower_xlog1py(Lowering& l, const Call& call) {
  return lower_formula(l, call,
                       [](const Term& x, const Term& y) { return x.with(Op::equal, 0).choose(0, x * y.of(Op::log1p)); });
}
// -x log x; 0 at 0, where -inf would be below.
Status lower_entr(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term y = -(x * x.of(Op::log));
    return x.with(Op::equal, 0).choose(0, y);
  });
}
// The size of one with the sign of the other, that of a zero, too: 1 / -0 is below 0.
Status lower_copysign(Lowering& l, const Call& call) {
  const TwoTerms with_sign = [](const Term& x, const Term& y) {
    const Term size = x.of(Op::abs), is_below = (y < 0).with(Op::maximum, y.behind(Op::div, 1) < 0);
    return is_below.choose(-size, size);
  };
  return lower_formula(l, call, with_sign, Rounds::kOnce);
}
// To so many digits behind the point, or before it where they are below 0.
Status lower_round_decimals(Lowering& l, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  const int64_t decimals = call.argument("decimals").toInt();
  const double ten = std::pow(10.0, static_cast<double>(std::abs(decimals)));
  const Term x = operand(l, call);
  if (decimals < 0) return finish(l, call, x.with(Op::div, ten).of(Op::round) * ten);
  return finish(l, call, (x * ten).of(Op::round).with(Op::div, ten));
}
// What quantization-aware training rounds to: (clamp(round(x / scale) + zero, low, high) - zero) scale, of one scale or of one for each channel.
Status lower_fake_quantize(Lowering& l, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  for (const Argument& argument : call.arguments)
    if (argument.name == "fake_quant_enabled" && argument.value.toTensor().ne(1).any().item<bool>()) {
      BITLAB_TRY(const ValueId x, l.activation(call, "self"));
      lose_from(l, call, 1);
      return l.finish(call, x);
    }
  const bool has_axis = call.op.find("per_channel") != std::string::npos;
  const auto factor = [&](const char* name) {
    const c10::IValue& value = call.argument(name);
    const at::Tensor tensor =
        value.isTensor() ? value.toTensor().to(at::kFloat) : at::full({1}, value.toScalar(), at::kFloat);
    std::vector<int64_t> shape(has_axis ? static_cast<size_t>(output_of(call).dim()) : 1, 1);
    if (has_axis) shape[static_cast<size_t>(dim_of(call, "axis"))] = -1;
    return tensor.reshape(shape).contiguous();
  };
  for (const char* name : {"scale", "zero_point"})
    if (call.argument(name).isTensor() && l.is_activation(call.tensor(name)))
      return unsupported(call, fmt::format("a {} that is known", name), "a computed one");
  const auto known = [&](const at::Tensor& tensor) { return Term(l, l.constant(tensor)); };
  const Term x = operand(l, call), scale = known(factor("scale")), zero = known(factor("zero_point")),
             inverse = known(factor("scale").reciprocal());
  const Term steps = (x * inverse).of(Op::round) + zero;
  const Term kept = steps.with(Op::maximum, number_of(call, "quant_min")).with(Op::minimum, number_of(call, "quant_max"));
  lose_from(l, call, 1);
  return finish(l, call, (kept - zero) * scale);
}

// Whether each element is among some values, or is not.
Status lower_isin(Lowering& l, const Call& call) {
  const at::ScalarType type =
      at::result_type(call.argument("elements").toTensor(), call.argument("test_elements").toTensor());
  BITLAB_TRY(ValueId x, l.operand_as(call, "elements", type));
  BITLAB_TRY(ValueId among, l.operand_as(call, "test_elements", type));
  program::Shape shape = l.shape(x);
  shape.emplace_back(1);
  BITLAB_TRY(x, l.reshape(x, shape));
  BITLAB_TRY(among, l.reshape(among, {program::volume(l.shape(among))}));
  BITLAB_TRY(ValueId found, l.node(Op::equal, {x, among}));
  BITLAB_TRY(found, l.cast(found, at::kLong));
  BITLAB_TRY(found, l.node(Op::max, {found}));
  return l.lower_to(call, Op::equal, {found, l.number(call.argument("invert").toBool() ? 0 : 1, at::kLong)});
}
Status lower_xlogy(Lowering& l, const Call& call) {
  return lower_formula(l, call,
                       [](const Term& x, const Term& y) { return x.with(Op::equal, 0).choose(0, x * y.of(Op::log)); });
}
Status lower_heaviside(Lowering& l, const Call& call) {
  const TwoTerms step = [](const Term& x, const Term& at_0) { return (x < 0).choose(0, (x > 0).choose(1, at_0)); };
  return lower_formula(l, call, step, Rounds::kOnce, "values");
}
Status lower_fmax(Lowering& l, const Call& call) {
  return lower_formula(
      l, call, [](const Term& x, const Term& y) { return is_nan(x).choose(y, is_nan(y).choose(x, x.with(Op::maximum, y))); },
      Rounds::kOnce);
}
Status lower_fmin(Lowering& l, const Call& call) {
  return lower_formula(
      l, call, [](const Term& x, const Term& y) { return is_nan(x).choose(y, is_nan(y).choose(x, x.with(Op::minimum, y))); },
      Rounds::kOnce);
}

// A number as the exponent: by products where it is a small whole one.
Status lower_general_pow(Lowering& l, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  constexpr double kMostProducts = 64;
  const double exponent = number_of(call, "exponent");
  const Term x = operand(l, call);
  if (exponent == std::floor(exponent) && std::fabs(exponent) <= kMostProducts && exponent != 0) {
    const Term power = whole_power(x, static_cast<int>(std::fabs(exponent)));
    if (exponent == 3) return finish(l, call, power, Rounds::kOnce);  // as LibTorch does
    return finish(l, call, exponent < 0 ? power.behind(Op::div, 1) : power);
  }
  if (exponent == 0) return finish(l, call, x.with(Op::equal, x).choose(1, x.constant(1)));
  return finish(l, call, (x.of(Op::log) * exponent).of(Op::exp));
}
Status lower_pow_of_tensors(Lowering& l, const Call& call) {
  return lower_formula(l, call, power, Rounds::kOften, "exponent");
}
Status lower_pow_of_number(Lowering& l, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  const double base = number_of(call, "self");
  if (base <= 0) return unsupported(call, "a base above 0", describe(call.argument("self")));
  return finish(l, call, (operand(l, call, "exponent") * std::log(base)).of(Op::exp));
}

Status lower_lerp(Lowering& l, const Call& call) {
  const Term a = operand(l, call), b = operand(l, call, "end"), w = operand(l, call, "weight");
  return finish(l, call, a + w * (b - a));
}
Status lower_addcdiv(Lowering& l, const Call& call) {
  const Term x = operand(l, call), a = operand(l, call, "tensor1"), b = operand(l, call, "tensor2"), quotient = a / b;
  const double value = number_of(call, "value");
  return finish(l, call, x + (value == 1 ? quotient : quotient * value));
}
Status lower_logit(Lowering& l, const Call& call) {
  Term x = operand(l, call);
  if (given(call, "eps")) {
    const double eps = call.argument("eps").toDouble();
    x = x.with(Op::maximum, eps).with(Op::minimum, 1 - eps);
  }
  return finish(l, call, (x / x.behind(Op::sub, 1)).of(Op::log));
}
Status lower_hardshrink(Lowering& l, const Call& call) {
  const Term x = operand(l, call);
  return finish(l, call, x.of(Op::abs).with(Op::less_equal, number_of(call, "lambd")).choose(0, x), Rounds::kOnce);
}
Status lower_softshrink(Lowering& l, const Call& call) {
  const double lambd = number_of(call, "lambd");
  const Term x = operand(l, call);
  const Term above = x.with(Op::sub, lambd).with(Op::maximum, 0), below = (x + lambd).with(Op::minimum, 0);
  return finish(l, call, above + below);
}
Status lower_nan_to_num(Lowering& l, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  constexpr double kMost = std::numeric_limits<float>::max();
  const auto or_else = [&](const char* name, double value) {
    return given(call, name) ? call.argument(name).toDouble() : value;
  };
  const Term x = operand(l, call), below = (x > kMost).choose(or_else("posinf", kMost), x),
             inside = (x < -kMost).choose(or_else("neginf", -kMost), below);
  return finish(l, call, is_nan(x).choose(or_else("nan", 0), inside), Rounds::kOnce);
}

// Constants are finite: what is none is beyond the largest number.
Status lower_isfinite(Lowering& l, const Call& call) {
  const Term x(l, l.operand_as(call, "self", at::kFloat));
  return finish(l, call, x.of(Op::abs).with(Op::less_equal, std::numeric_limits<float>::max()), Rounds::kOnce);
}
Status lower_isinf(Lowering& l, const Call& call) {
  const Term x(l, l.operand_as(call, "self", at::kFloat));
  return finish(l, call, x.of(Op::abs) > std::numeric_limits<float>::max(), Rounds::kOnce);
}

namespace {

// Losses of each value, or their mean or sum; LibTorch's numbers for the three.
Status lower_loss(Lowering& l, const Call& call, const Term& loss) {
  const int64_t reduction = call.argument("reduction").toInt();
  if (reduction == 0) return finish(l, call, loss);
  BITLAB_TRY(ValueId y, loss.value());
  BITLAB_TRY(y, l.reshape(y, {program::volume(l.shape(y))}));
  BITLAB_TRY(y, l.node(reduction == 1 ? Op::mean : Op::sum, {y}));
  return l.finish(call, y);
}

// factor d^2 below a distance, and slope (d - distance / 2) from it on.
Term bent_loss(const Term& x, const Term& target, double distance, double factor, double slope) {
  const Term d = (x - target).of(Op::abs), near = d * d * factor, far = (d + -distance / 2) * slope;
  return d.with(Op::less, distance).choose(near, far);
}

}  // namespace

Status lower_mse_loss(Lowering& l, const Call& call) {
  const Term x = operand(l, call), y = operand(l, call, "target"), d = x - y;
  return lower_loss(l, call, d * d);
}
Status lower_smooth_l1_loss(Lowering& l, const Call& call) {
  const double beta = call.argument("beta").toScalar().toDouble();
  const Term x = operand(l, call), y = operand(l, call, "target");
  return lower_loss(l, call, beta == 0 ? (x - y).of(Op::abs) : bent_loss(x, y, beta, 0.5 / beta, 1));
}
Status lower_huber_loss(Lowering& l, const Call& call) {
  const double delta = call.argument("delta").toScalar().toDouble();
  const Term x = operand(l, call), y = operand(l, call, "target");
  return lower_loss(l, call, bent_loss(x, y, delta, 0.5, delta));
}

// Which dtype a result will have is no value that a program computes.
Status lower_nothing(Lowering&, const Call&) { return {}; }

}  // namespace bitlab::deploy
