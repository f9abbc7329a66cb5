// Readers of operators that compute element by element.
#include <algorithm>
#include <cmath>
#include <limits>

#include "bitlab/format/onnx/internal/read_sizes.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::DType;
using program::Op;
using program::ValueId;

namespace {

struct UnaryRow {
  std::string_view type;
  Op op;
  double (*f)(double);
};
constexpr UnaryRow kUnary[] = {
    {"Relu", Op::relu, [](double x) { return x > 0 ? x : 0; }},
    {"Sigmoid", Op::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"Tanh", Op::tanh, [](double x) { return std::tanh(x); }},
    {"Exp", Op::exp, [](double x) { return std::exp(x); }},
    {"Log", Op::log, [](double x) { return std::log(x); }},
    {"Sqrt", Op::sqrt, [](double x) { return std::sqrt(x); }},
    {"Erf", Op::erf, [](double x) { return std::erf(x); }},
    {"Sin", Op::sin, [](double x) { return std::sin(x); }},
    {"Cos", Op::cos, [](double x) { return std::cos(x); }},
    {"Abs", Op::abs, [](double x) { return std::fabs(x); }},
    {"Floor", Op::floor, [](double x) { return std::floor(x); }},
    {"Ceil", Op::ceil, [](double x) { return std::ceil(x); }},
    {"Round", Op::round, [](double x) { return std::nearbyint(x); }},
};

Term softplus(const Term& x) { return max(x, 0) + (x.of(Op::abs) * -1.0).of(Op::exp).of(Op::log1p); }

// scale (max(x, 0) + alpha (e^(min(x, 0) / width) - 1))
Term elu(const Term& x, double alpha, double width = 1, double scale = 1) {
  const Term below = (min(x, 0) / width).of(Op::expm1) * alpha;
  return (max(x, 0) + below) * scale;
}

Term power_of(const Term& x, int n) {
  std::optional<Term> power;
  Term square = x;
  for (;; square = square * square) {
    if ((n & 1) != 0) power = power ? *power * square : square;
    n >>= 1;
    if (n == 0) return *power;
  }
}

// e^(y log |x|), with the sign that x^y has for a negative x, and NaN where it has none. x^0 is 1.
Term power_of(const Term& x, const Term& y) {
  const Term size = (y * x.of(Op::abs).of(Op::log)).of(Op::exp), whole = y.of(Op::floor);
  const Term odd = ((whole * 0.5).of(Op::floor) * 2.0).with(Op::less, whole);
  const Term negative = whole.with(Op::equal, y).choose(odd.choose(size * -1.0, size), x.of(Op::log));
  return y.with(Op::equal, 0.0).choose(1, x.with(Op::less, 0.0).choose(negative, size));
}

// Towards zero, of integers.
Term quotient(const Term& a, const Term& b) {
  const Term size = max(a, 0).with(Op::sub, min(a, 0)).with(Op::floor_divide, max(b, 0).with(Op::sub, min(b, 0)));
  const Term opposite = a.with(Op::less, 0.0).with(Op::not_equal, b.with(Op::less, 0.0));
  return opposite.choose(size * -1.0, size);
}

// --- folding

using Number = double (*)(double, double);
using Whole = int64_t (*)(int64_t, int64_t);
struct BinaryRow {
  std::string_view type;
  std::optional<Op> op;
  bool is_comparison, is_turned;  // turned: b op a
  Number f;
  Whole g;
};
int64_t wrapped(uint64_t value) { return static_cast<int64_t>(value); }
uint64_t bits(int64_t value) { return static_cast<uint64_t>(value); }
int64_t whole_quotient(int64_t a, int64_t b) {
  if (b == 0) return 0;
  return b == -1 ? wrapped(0 - bits(a)) : a / b;
}
constexpr BinaryRow kBinary[] = {
    {"Add", Op::add, false, false, [](double a, double b) { return a + b; },
     [](int64_t a, int64_t b) { return wrapped(bits(a) + bits(b)); }},
    {"Sub", Op::sub, false, false, [](double a, double b) { return a - b; },
     [](int64_t a, int64_t b) { return wrapped(bits(a) - bits(b)); }},
    {"Mul", Op::mul, false, false, [](double a, double b) { return a * b; },
     [](int64_t a, int64_t b) { return wrapped(bits(a) * bits(b)); }},
    {"Div", Op::div, false, false, [](double a, double b) { return a / b; }, whole_quotient},
    {"Max", Op::maximum, false, false, [](double a, double b) { return std::max(a, b); },
     [](int64_t a, int64_t b) { return std::max(a, b); }},
    {"Min", Op::minimum, false, false, [](double a, double b) { return std::min(a, b); },
     [](int64_t a, int64_t b) { return std::min(a, b); }},
    {"Sum", Op::add, false, false, [](double a, double b) { return a + b; }, nullptr},
    {"Equal", Op::equal, true, false, [](double a, double b) { return a == b ? 1.0 : 0.0; },
     [](int64_t a, int64_t b) { return int64_t{a == b}; }},
    {"Less", Op::less, true, false, [](double a, double b) { return a < b ? 1.0 : 0.0; },
     [](int64_t a, int64_t b) { return int64_t{a < b}; }},
    {"LessOrEqual", Op::less_equal, true, false, [](double a, double b) { return a <= b ? 1.0 : 0.0; },
     [](int64_t a, int64_t b) { return int64_t{a <= b}; }},
    {"Greater", Op::less, true, true, [](double a, double b) { return a > b ? 1.0 : 0.0; },
     [](int64_t a, int64_t b) { return int64_t{a > b}; }},
    {"GreaterOrEqual", Op::less_equal, true, true, [](double a, double b) { return a >= b ? 1.0 : 0.0; },
     [](int64_t a, int64_t b) { return int64_t{a >= b}; }},
    {"And", Op::minimum, false, false, nullptr, [](int64_t a, int64_t b) { return a & b; }},
    {"Or", Op::maximum, false, false, nullptr, [](int64_t a, int64_t b) { return a | b; }},
    {"Xor", Op::not_equal, false, false, nullptr, [](int64_t a, int64_t b) { return a ^ b; }},
    {"BitwiseAnd", Op::bitwise_and, false, false, nullptr, [](int64_t a, int64_t b) { return a & b; }},
    {"BitwiseOr", Op::bitwise_or, false, false, nullptr, [](int64_t a, int64_t b) { return a | b; }},
    {"BitwiseXor", Op::bitwise_xor, false, false, nullptr, [](int64_t a, int64_t b) { return a ^ b; }},
};

const BinaryRow& row_of(const Reader& r) {
  return *std::find_if(std::begin(kBinary), std::end(kBinary),
                       [&](const BinaryRow& row) { return row.type == r.node().type; });
}

Result<Operands> fold_binary(Reader& r, const BinaryRow& row) {
  Tensor y = *r.tensor(0);
  for (size_t i = 1; i < r.node().inputs.size(); ++i) {
    if (!r.has(i)) return r.corrupt("input {}, got none", i);
    const Tensor& b = *r.tensor(i);
    BITLAB_TRY(y, r.folding.binary(y, b, row.is_comparison ? ElementType::kBool : y.type, row.f,
                                   row.g == nullptr ? std::function<int64_t(int64_t, int64_t)>() : row.g));
  }
  return Operands{y};
}

Term two(const BinaryRow& row, const Reader& r, const Term& a, const Term& b) {
  if (row.type == "Div" && r.type(0) != ElementType::kFloat) return quotient(a, b);
  return row.is_turned ? b.with(*row.op, a) : a.with(*row.op, b);
}

}  // namespace

Result<Operands> read_unary(Reader& r) {
  const auto* const row =
      std::find_if(std::begin(kUnary), std::end(kUnary), [&](const UnaryRow& u) { return u.type == r.node().type; });
  if (const Tensor* x = r.tensor(0)) {
    if (!is_float(x->type) && row->op != Op::abs && row->op != Op::relu)
      return r.corrupt("floats, got {}", name_of(x->type));
    return single(r.folding.of_numbers(x->type, x->sizes, [&](int64_t i) { return row->f(x->number(i)); }));
  }
  const Term x = computed_input(r, 0);
  if (r.type(0) != ElementType::kFloat && row->op == Op::abs) return single(x.with(Op::maximum, x * -1.0));
  if (r.type(0) != ElementType::kFloat && row->op == Op::relu) return single(max(x, 0));
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  return single(x.of(row->op));
}

Result<Operands> read_binary(Reader& r) {
  const BinaryRow& row = row_of(r);
  if (all_known(r, 1)) return fold_binary(r, row);
  if (const auto folded = of_sizes(r)) return Operands{*folded};
  if (row.is_comparison) {
    if (const auto known = compared_sizes(r)) return single(r.folding.cast(*known, ElementType::kBool));
  }
  const bool is_quotient = row.type == "Div" && r.type(0) != ElementType::kFloat;  // whose formula reads each side alone
  Term y = is_quotient ? computed_input(r, 0) : input(r, 0);
  for (size_t i = 1; i < r.node().inputs.size(); ++i) {
    const bool is_known = is_quotient || (r.tensor(i) != nullptr && i == 1 && r.tensor(0) != nullptr);
    y = two(row, r, y, is_known ? computed_input(r, i) : input(r, i));
  }
  return single(r.node().inputs.size() > 1 ? y : computed_input(r, 0));
}

Result<Operands> read_mean_of(Reader& r) {
  Term y = computed_input(r, 0);
  for (size_t i = 1; i < r.node().inputs.size(); ++i) y = y + input(r, i);
  return single(y / static_cast<double>(r.node().inputs.size()));
}

Result<Operands> read_bit_shift(Reader& r) {
  const bool is_left = r.text("direction", "") == "LEFT";
  if (all_known(r, 2))
    return single(r.folding.binary(*r.tensor(0), *r.tensor(1), r.type(0), nullptr, [&](int64_t a, int64_t b) {
      const int64_t most = 8 * size_of(r.type(0));
      if (b < 0 || b >= most) return int64_t{0};
      return wrapped(is_left ? bits(a) << b : bits(a) >> b);
    }));
  return single(computed_input(r, 0).with(is_left ? Op::shift_left : Op::shift_right, input(r, 1)));
}

Result<Operands> read_mod(Reader& r) {
  const bool is_c = r.integer("fmod", 0) == 1;
  if (all_known(r, 2))
    return single(r.folding.binary(
        *r.tensor(0), *r.tensor(1), r.type(0),
        [&](double a, double b) { return is_c ? std::fmod(a, b) : a - b * std::floor(a / b); },
        [&](int64_t a, int64_t b) {
          const int64_t rest = b == 0 || b == -1 ? 0 : a % b;
          return !is_c && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
        }));
  if (const auto folded = of_sizes(r)) return Operands{*folded};
  const Term a = computed_input(r, 0), b = computed_input(r, 1);
  if (r.type(0) != ElementType::kFloat) return single(a - (is_c ? quotient(a, b) : a.with(Op::floor_divide, b)) * b);
  const Term ratio = a / b, down = ratio.of(Op::floor);
  const Term rest = a - (is_c ? ratio.with(Op::less, 0.0).choose(ratio.of(Op::ceil), down) : down) * b;
  const Term endless = is_c ? a : (a * b.with(Op::less, 0.0).choose(-1, b.like(1))).with(Op::less, 0.0).choose(b, a);
  const Term is_endless = b.like(std::numeric_limits<float>::max()).with(Op::less, b.of(Op::abs));
  return single(is_endless.choose(a - a + endless, rest));  // NaN where a has no end
}

Result<Operands> read_pow(Reader& r) {
  if (all_known(r, 2))
    return single(r.folding.binary(
        *r.tensor(0), *r.tensor(1), r.type(0), [](double a, double b) { return std::pow(a, b); }, nullptr));
  if (const auto folded = of_sizes(r)) return Operands{*folded};
  const Term x = computed_input(r, 0);
  const Tensor* exponent = r.tensor(1);
  constexpr double kMost = 8;
  if (r.type(0) != ElementType::kFloat) {
    const double y = exponent != nullptr && exponent->count() == 1 ? exponent->number(0) : -1;
    if (y != std::floor(y) || y < 1 || y > kMost)
      return r.refuse("float32 values, or a power from 1 to 8, got {}", name_of(r.type(0)));
    return single(power_of(x, static_cast<int>(y)));
  }
  if (exponent != nullptr && exponent->count() == 1) {
    const double y = exponent->number(0);
    if (y == 1) return single(x);
    if (y == 0.5) return single(x.of(Op::sqrt));
    if (y == -0.5) return single(x.of(Op::rsqrt));
    if (y == std::floor(y) && y != 0 && std::fabs(y) <= kMost) {
      const Term power = power_of(x, static_cast<int>(std::fabs(y)));
      return single(y < 0 ? power.behind(Op::div, 1) : power);
    }
  }
  const Term y = computed_input(r, 1);
  return single(power_of(x, r.type(1) == ElementType::kFloat ? y : y.cast(DType::kFloat32)));
}

Result<Operands> read_neg(Reader& r) {
  if (const Tensor* x = r.tensor(0)) {
    if (is_float(x->type)) return single(r.folding.of_numbers(x->type, x->sizes, [&](int64_t i) { return -x->number(i); }));
    return single(r.folding.of_integers(x->type, x->sizes, [&](int64_t i) { return wrapped(0 - bits(x->integer(i))); }));
  }
  return single(computed_input(r, 0) * -1.0);
}

Result<Operands> read_reciprocal(Reader& r) {
  if (const Tensor* x = r.tensor(0))
    return single(r.folding.of_numbers(x->type, x->sizes, [&](int64_t i) { return 1 / x->number(i); }));
  return single(computed_input(r, 0).behind(Op::div, 1));
}

Result<Operands> read_not(Reader& r) {
  if (const Tensor* x = r.tensor(0))
    return single(r.folding.of_integers(x->type, x->sizes, [&](int64_t i) { return x->integer(i) == 0 ? 1 : 0; }));
  return single(computed_input(r, 0).with(Op::equal, 0.0));
}

Result<Operands> read_bitwise_not(Reader& r) {
  if (const Tensor* x = r.tensor(0))
    return single(r.folding.of_integers(x->type, x->sizes, [&](int64_t i) { return ~x->integer(i); }));
  return single(computed_input(r, 0).with(Op::bitwise_xor, -1.0));
}

Result<Operands> read_sign(Reader& r) {
  const Term x = computed_input(r, 0), zero = x.like(0);
  const auto dtype = r.type(0) == ElementType::kFloat   ? DType::kFloat32
                     : r.type(0) == ElementType::kInt64 ? DType::kInt64
                                                        : DType::kInt32;
  return single(zero.with(Op::less, x).cast(dtype) - x.with(Op::less, zero).cast(dtype));
}

Result<Operands> read_is_nan(Reader& r) {
  const Term x = computed_input(r, 0);
  return single(x.with(Op::not_equal, x));
}

Result<Operands> read_is_inf(Reader& r) {
  constexpr double kMost = std::numeric_limits<float>::max();
  Term x = computed_input(r, 0);
  const bool above = r.integer("detect_positive", 1) != 0, below = r.integer("detect_negative", 1) != 0;
  if (above && below) x = x.of(Op::abs);
  if (!above && !below) return r.refuse("a sign of infinity, got none");
  return single(above ? x.like(kMost).with(Op::less, x) : x.with(Op::less, -kMost));
}

// Functions of one float, by name.
Result<Operands> read_formula(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Term x = computed_input(r, 0);
  const std::string_view type = r.node().type;
  const auto alpha = [&](float otherwise) { return double{r.number("alpha", otherwise)}; };
  if (type == "Tan") return single(x.of(Op::sin) / x.of(Op::cos));
  if (type == "Softplus") return single(softplus(x));
  if (type == "Softsign") return single(x / (x.of(Op::abs) + 1.0));
  if (type == "Elu") return single(elu(x, alpha(1)));
  if (type == "Celu") return single(elu(x, alpha(1), alpha(1)));
  if (type == "Selu") return single(elu(x, alpha(1.67326319F), 1, r.number("gamma", 1.05070102F)));
  if (type == "LeakyRelu") return single(max(x, 0) + min(x, 0) * alpha(0.01F));
  if (type == "ThresholdedRelu") return single(x.like(alpha(1)).with(Op::less, x).choose(x, x * 0.0));
  if (type == "HardSigmoid") return single(min(max(x * alpha(0.2F) + double{r.number("beta", 0.5F)}, 0), 1));
  if (type == "HardSwish") return single(x * min(max(x + 3.0, 0), 6) / 6.0);
  if (type == "Mish") return single(x * softplus(x).of(Op::tanh));
  if (type == "Gelu") return single(x.of(r.text("approximate", "none") == "tanh" ? Op::gelu_tanh : Op::gelu));
  if (type == "Swish") return single(alpha(1) == 1 ? x.of(Op::silu) : x * (x * alpha(1)).of(Op::sigmoid));
  if (type == "Atan") return single(x.with(Op::atan2, 1.0));
  if (type == "Asinh") {
    const Term size = x.of(Op::abs), square = size * size;
    const Term y = (size + square / ((square + 1.0).of(Op::sqrt) + 1.0)).of(Op::log1p);
    return single(x.with(Op::less, 0.0).choose(y * -1.0, y));
  }
  if (type == "Acosh") return single((x + ((x + -1.0) * (x + 1.0)).of(Op::sqrt)).of(Op::log));
  if (type == "Atanh") return single((x.of(Op::log1p) - (x * -1.0).of(Op::log1p)) * 0.5);
  if (type == "Shrink") {
    const double bias = r.number("bias", 0), edge = r.number("lambd", 0.5F);
    return single(x.with(Op::less, -edge).choose(x + bias, x.like(edge).with(Op::less, x).choose(x + -bias, x * 0.0)));
  }
  const Term other = ((x * x) * -1.0 + 1.0).of(Op::sqrt);
  if (type == "Asin") return single(x.with(Op::atan2, other));
  if (type == "Acos") return single(other.with(Op::atan2, x));
  const Term up = x.of(Op::expm1);
  if (type == "Sinh") return single((up + up / (up + 1.0)) * 0.5);
  return single((x.of(Op::exp) + (x * -1.0).of(Op::exp)) * 0.5);  // Cosh
}

Result<Operands> read_prelu(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Term x = computed_input(r, 0);
  return single(max(x, 0) + min(x, 0) * input(r, 1));
}

Result<Operands> read_clip(Reader& r) {
  constexpr float kMostFloat = std::numeric_limits<float>::max();
  Term x = r.has(1) || r.has(2) ? input(r, 0) : computed_input(r, 0);
  if (r.tensor(0) != nullptr) x = computed_input(r, 0);
  for (const auto& [place, op] : {std::pair{size_t{1}, Op::maximum}, std::pair{size_t{2}, Op::minimum}}) {
    if (r.has(place)) x = x.with(op, input(r, place));
    if (const ModelAttribute* bound = r.node().find(place == 1 ? "min" : "max"))  // before opset 11
      x = x.with(op, std::clamp(bound->number, -kMostFloat, kMostFloat));
  }
  return single(x);
}

Result<Operands> read_swiglu(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Term a = computed_input(r, 0);
  return single(a * (a * double{r.number("alpha", 1)}).of(Op::sigmoid) * input(r, 1));
}

Result<Operands> read_where(Reader& r) {
  const Tensor* condition = r.tensor(0);
  const auto a = r.sizes(1), b = r.sizes(2);
  if (condition != nullptr && a && b && condition->sizes.size() <= 1) {
    const size_t count = std::max({static_cast<size_t>(condition->count()), a->values.size(), b->values.size()});
    const auto fits = [&](size_t size) { return size == count || size == 1; };
    if (fits(a->values.size()) && fits(b->values.size()) && condition->count() == static_cast<int64_t>(count)) {
      SizeList chosen{{}, condition->sizes.empty() && a->is_scalar && b->is_scalar};
      for (size_t i = 0; i < count; ++i) {
        const SizeList& from = condition->integer(static_cast<int64_t>(i)) != 0 ? *a : *b;
        chosen.values.push_back(from.values[from.values.size() == 1 ? 0 : i]);
      }
      return Operands{operand_of(std::move(chosen))};
    }
  }
  if (all_known(r, 3)) {
    BITLAB_TRY(const Ints values, broadcast_sizes(r.tensor(1)->sizes, r.tensor(2)->sizes));
    BITLAB_TRY(const Ints sizes, broadcast_sizes(condition->sizes, values));
    BITLAB_TRY(const Tensor c, r.folding.broadcast(*condition, sizes));
    BITLAB_TRY(const Tensor left, r.folding.broadcast(*r.tensor(1), sizes));
    BITLAB_TRY(const Tensor right, r.folding.broadcast(*r.tensor(2), sizes));
    return single(r.folding.of_numbers(left.type, sizes,
                                       [&](int64_t i) { return c.integer(i) != 0 ? left.number(i) : right.number(i); }));
  }
  return single(input(r, 0).choose(input(r, 1), input(r, 2)));
}

namespace {

// As floats that are marked: floats towards zero and inside the range, integers as many of 256 as they have too many.
Result<Operands> in_eight_bits(Reader& r, ValueId x, ElementType to) {
  const double least = to == ElementType::kInt8 ? -128 : 0;
  const DType dtype = r.of(x).dtype;
  Term y(r, x);
  if (dtype == DType::kFloat32) y = min(max(y, least), least + 255).cast(DType::kInt32);
  if (dtype == DType::kInt64 || dtype == DType::kInt32) y = (y + -least).with(Op::bitwise_and, 255.0) + least;
  BITLAB_TRY(const ValueId id, y.cast(DType::kFloat32).id());
  BITLAB_TRY(const ValueId own, r.emit(Op::reshape, {id}, {{"shape", r.shape_of(id)}}));
  r.keep_as(own, to);
  return Operands{own};
}

Result<Operands> cast_to(Reader& r, ElementType to) {
  if (const Tensor* x = r.tensor(0)) return single(r.folding.cast(*x, to));
  const auto list = r.sizes(0);
  if (list && is_integer(to) && size_of(to) >= 4) return Operands{operand_of(*list)};
  const ElementType from = r.type(0);
  BITLAB_TRY(const ValueId x, r.activation(0));
  if (from == to) return Operands{x};
  if (to == ElementType::kInt8 || to == ElementType::kUint8) return in_eight_bits(r, x, to);
  BITLAB_TRY(const ValueId floats, r.unmarked(x));
  if (to == ElementType::kDouble) return single(r.cast(floats, DType::kFloat32));
  for (const DType dtype : {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool})
    if (element_type(dtype) == to) {
      BITLAB_TRY(const ValueId y, r.cast(floats, dtype));
      if (list && dtype == DType::kFloat32) r.keep_sizes(y, *list);
      return Operands{y};
    }
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    if (element_type(dtype) != to) continue;
    BITLAB_TRY(const ValueId rounded, r.cast(floats, dtype));
    return single(r.cast(rounded, DType::kFloat32));
  }
  return r.refuse("float32, float16, bfloat16, float64, int64, int32, int8, uint8, bool to cast to, got {}", name_of(to));
}

}  // namespace

Result<Operands> read_cast(Reader& r) { return cast_to(r, static_cast<ElementType>(r.integer("to", 0))); }
Result<Operands> read_cast_like(Reader& r) { return cast_to(r, r.type(1)); }

}  // namespace bitlab::format::onnx
