// Complex values, as pairs of real ones in a last dimension, and what makes them: Fourier transforms as products with constant matrices.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// A value of another kind of real ones as pairs: with imaginary parts of 0.
Result<ValueId> as_pairs(Lowering& lowering, ValueId x) {
  program::Shape shape = lowering.shape(x);
  shape.emplace_back(1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  BITLAB_TRY(const ValueId zeros, lowering.node(Op::expand, {lowering.constant(at::zeros({1}))}, {{"shape", shape}}));
  return lowering.node(Op::cat, {x, zeros}, {{"dim", static_cast<int64_t>(shape.size()) - 1}});
}

// The pairs of a complex argument; of a real one, or a number, its values, with a last dimension of 1.
Result<ValueId> factor_of(Lowering& lowering, const Call& call, const char* name) {
  const c10::IValue& argument = call.argument(name);
  if (argument.isTensor() && argument.toTensor().is_complex()) {
    if (lowering.is_activation(argument.toTensor())) return lowering.activation(call, name);
    return lowering.constant_of(call, [&](const Call& c) {
      return at::view_as_real(c.argument(name).toTensor().resolve_conj().to(at::kComplexFloat));
    });
  }
  if (argument.isScalar() && argument.toScalar().isComplex())
    return unsupported(call, "complex tensors and real numbers", describe(argument));
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, name, at::kFloat));
  program::Shape shape = lowering.shape(x);
  shape.emplace_back(1);
  return lowering.reshape(x, shape);
}

bool is_complex(const Call& call, const char* name) {
  return call.argument(name).isTensor() && call.argument(name).toTensor().is_complex();
}

// The pairs of an argument, complex or real.
Result<ValueId> pairs_of(Lowering& lowering, const Call& call, const char* name) {
  if (is_complex(call, name)) return factor_of(lowering, call, name);
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, name, at::kFloat));
  return as_pairs(lowering, x);
}

// The real parts, 0, or the imaginary ones, 1, with a last dimension of 1.
Result<ValueId> half_of(Lowering& lowering, ValueId pairs, int64_t half) {
  return slice_of(lowering, pairs, static_cast<int64_t>(lowering.shape(pairs).size()) - 1, half, 1);
}

// A real value for each pair, in the shape of the output.
Status finish_real(Lowering& lowering, const Call& call, ValueId y) {
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

// What LibTorch multiplies a transform of n values by.
double scale_of(int64_t n, int64_t normalization) {
  return normalization == 0 ? 1 : normalization == 1 ? 1 / std::sqrt(static_cast<double>(n)) : 1 / static_cast<double>(n);
}

// [rows, columns] of cos and sin of 2 pi row column / n, each times a weight.
template <class Entry>
at::Tensor matrix_of(int64_t rows, int64_t columns, int64_t n, const Entry& entry) {
  std::vector<float> values;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const auto angle = [n](int64_t product) {
        return 2 * std::numbers::pi * static_cast<double>(product % n) / static_cast<double>(n);
      };
      values.push_back(static_cast<float>(entry(i, j, angle)));
    }
  return at::tensor(values).view({rows, columns});
}

// The matrix [2 frequencies, n] of a transform of n real values: cosines and sines, row by row in pairs.
at::Tensor transform_of(int64_t n, int64_t frequencies, double scale) {
  return matrix_of(2 * frequencies, n, n, [&](int64_t i, int64_t j, const auto& angle) {
    const double a = angle(i / 2 * j);
    return scale * (i % 2 == 0 ? std::cos(a) : -std::sin(a));
  });
}

// The matrix [2 n, 2 n] of a transform of n pairs: (a + b i)(cos -+ sin i).
at::Tensor complex_transform_of(int64_t n, double scale, bool forward) {
  return matrix_of(2 * n, 2 * n, n, [&](int64_t i, int64_t j, const auto& angle) {
    const double a = angle(i / 2 * (j / 2)), sine = forward ? -std::sin(a) : std::sin(a);
    return scale * (i % 2 == j % 2 ? std::cos(a) : i % 2 == 0 ? -sine : sine);
  });
}

// The matrix [n, 2 frequencies] back to n real values: each frequency but the first, and that of n / 2, stands for its mirror image as well.
at::Tensor real_inverse_of(int64_t n, int64_t frequencies, double scale) {
  return matrix_of(n, 2 * frequencies, n, [&](int64_t i, int64_t j, const auto& angle) {
    const int64_t k = j / 2;
    const double a = angle(i * k), weight = k == 0 || 2 * k == n ? 1 : 2;
    return scale * weight * (j % 2 == 0 ? std::cos(a) : -std::sin(a));
  });
}

// [rows, columns] of 2 pi (row column mod n) / n, of an n that differs from run to run.
Result<ValueId> open_angles(Lowering& lowering, const program::Dim& rows, const program::Dim& columns,
                            const program::Dim& n) {
  BITLAB_TRY(ValueId i, counted_to(lowering, rows));
  BITLAB_TRY(i, lowering.reshape(i, {rows, 1}));
  BITLAB_TRY(const ValueId j, counted_to(lowering, columns));
  BITLAB_TRY(const ValueId size, lowering.size_value(n));
  BITLAB_TRY(const ValueId product, lowering.node(Op::mul, {i, j}));
  BITLAB_TRY(ValueId turns, lowering.node(Op::floor_divide, {product, size}));
  BITLAB_TRY(turns, lowering.node(Op::mul, {turns, size}));
  BITLAB_TRY(ValueId angle, lowering.node(Op::sub, {product, turns}));
  BITLAB_TRY(angle, lowering.cast(angle, at::kFloat));
  BITLAB_TRY(angle, scaled(lowering, angle, 2 * std::numbers::pi));
  BITLAB_TRY(const ValueId whole, lowering.cast(size, at::kFloat));
  return lowering.node(Op::div, {angle, whole});
}

// The dimension `dim` of x last, a function of that, and back.
Result<ValueId> along(Lowering& lowering, ValueId x, int64_t dim, const std::function<Result<ValueId>(ValueId)>& f) {
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  Sizes order = counted(static_cast<size_t>(rank)), back = order;
  std::rotate(order.begin() + dim, order.begin() + dim + 1, order.end());
  std::rotate(back.begin() + dim, back.begin() + rank - 1, back.end());
  BITLAB_TRY(x, permuted(lowering, x, order));
  BITLAB_TRY(x, with_rank(lowering, x, 2));
  BITLAB_TRY(x, f(x));
  if (rank == 1) {
    BITLAB_TRY(x, lowering.reshape(x, {lowering.shape(x).back()}));
  }
  return permuted(lowering, x, back);
}

// A transform of n values, where n differs from run to run, by products with its matrices, which each run computes: of n^2 values.
struct OpenTransform {
  Lowering& lowering;
  program::Dim n;
  int64_t normalization;

  // What LibTorch multiplies with; x itself for nothing.
  Result<ValueId> normalized(ValueId x) const {
    if (normalization == 0) return x;
    BITLAB_TRY(ValueId size, lowering.size_value(n));
    BITLAB_TRY(size, lowering.cast(size, at::kFloat));
    if (normalization == 1) {
      BITLAB_TRY(size, lowering.node(Op::sqrt, {size}));
    }
    return lowering.node(Op::div, {x, size});
  }

  // Real and imaginary parts [..., n] to `count` of each: (a + b i)(cos -+ sin i). `b` is none of real values; `wanted`: both parts, or the real one.
  Result<std::array<ValueId, 2>> of(ValueId a, ValueId b, int64_t dim, const program::Dim& count, bool forward,
                                    bool wants_imaginary) const {
    BITLAB_TRY(const ValueId angles, open_angles(lowering, lowering.shape(a)[static_cast<size_t>(dim)], count, n));
    BITLAB_TRY(const ValueId cosines, lowering.node(Op::cos, {angles}));
    BITLAB_TRY(ValueId sines, lowering.node(Op::sin, {angles}));
    BITLAB_TRY(sines, scaled(lowering, sines, forward ? -1 : 1));
    const auto times = [&](ValueId x, ValueId matrix) {
      return along(lowering, x, dim, [&](ValueId rows) { return lowering.node(Op::matmul, {rows, matrix}); });
    };
    const auto both = [&](ValueId first, ValueId second, Op op) -> Result<ValueId> {
      BITLAB_TRY(ValueId y, times(a, first));
      if (b != program::kNone) {
        BITLAB_TRY(const ValueId z, times(b, second));
        BITLAB_TRY(y, lowering.node(op, {y, z}));
      }
      return normalized(y);
    };
    std::array<ValueId, 2> parts{program::kNone, program::kNone};
    BITLAB_TRY(parts[0], both(cosines, sines, Op::sub));
    if (wants_imaginary) {
      BITLAB_TRY(parts[1], both(sines, cosines, Op::add));
    }
    return parts;
  }
};

// The parts of pairs, without the dimension that they are in, and pairs of such.
Result<std::array<ValueId, 2>> parts_of(Lowering& lowering, ValueId pairs) {
  program::Shape shape = lowering.shape(pairs);
  shape.pop_back();
  std::array<ValueId, 2> parts{};
  for (size_t half = 0; half < 2; ++half) {
    BITLAB_TRY(parts.at(half), half_of(lowering, pairs, static_cast<int64_t>(half)));
    BITLAB_TRY(parts.at(half), lowering.reshape(parts.at(half), shape));
  }
  return parts;
}
Result<ValueId> joined_parts(Lowering& lowering, std::array<ValueId, 2> parts) {
  program::Shape shape = lowering.shape(parts[0]);
  shape.emplace_back(1);
  for (ValueId& part : parts) {
    BITLAB_TRY(part, lowering.reshape(part, shape));
  }
  return lowering.node(Op::cat, {parts[0], parts[1]}, {{"dim", static_cast<int64_t>(shape.size()) - 1}});
}

bool is_open(Lowering& lowering, ValueId x, int64_t dim) {
  const program::Dim& size = lowering.shape(x)[static_cast<size_t>(dim)];
  return !size.is_number() && !uses(size, 0);
}

// A product with a constant matrix along a dimension of fixed size; of pairs along it and the pair, which stays last.
Result<ValueId> transformed(Lowering& lowering, const Call& call, ValueId x, int64_t dim, bool of_pairs, bool to_pairs,
                            const std::function<at::Tensor(int64_t n)>& matrix) {
  const auto rank = static_cast<int64_t>(lowering.shape(x).size()) - (of_pairs ? 1 : 0);
  const program::Dim size = lowering.shape(x)[static_cast<size_t>(dim)];
  if (!size.is_number()) return unsupported(call, "a dimension of fixed size", lowering.show(lowering.shape(x)));
  Sizes order = counted(static_cast<size_t>(rank + (of_pairs ? 1 : 0)));
  std::rotate(order.begin() + dim, order.begin() + dim + 1, order.begin() + rank);
  BITLAB_TRY(x, permuted(lowering, x, order));
  if (of_pairs) {
    program::Shape joined = lowering.shape(x);
    joined.pop_back();
    joined.back() = size * program::Dim(2);
    BITLAB_TRY(x, lowering.reshape(x, joined));
  }
  const bool is_vector = lowering.shape(x).size() == 1;
  BITLAB_TRY(x, with_rank(lowering, x, 2));
  BITLAB_TRY(x, lowering.node(Op::linear, {x, lowering.constant(matrix(size.factor))}));
  if (is_vector) {
    BITLAB_TRY(x, lowering.reshape(x, {lowering.shape(x).back()}));
  }
  if (to_pairs) {
    program::Shape split = lowering.shape(x);
    split.back() = split.back().factor / 2;
    split.emplace_back(2);
    BITLAB_TRY(x, lowering.reshape(x, split));
  }
  Sizes back = counted(static_cast<size_t>(rank + (to_pairs ? 1 : 0)));
  std::rotate(back.begin() + dim, back.begin() + rank - 1, back.begin() + rank);
  return permuted(lowering, x, back);
}

// The dimensions of a transform, from the first.
Sizes transformed_dims(const Call& call) {
  Sizes dims = call.argument("dim").toIntVector();
  for (int64_t& dim : dims) dim = wrap_dim(dim, call.argument("self").toTensor().dim());
  return dims;
}

// Pairs transformed along each of some dimensions.
Result<ValueId> complex_transformed(Lowering& lowering, const Call& call, ValueId x, at::IntArrayRef dims, bool forward) {
  const int64_t normalization = call.argument("normalization").toInt();
  for (const int64_t dim : dims) {
    if (is_open(lowering, x, dim)) {
      const program::Dim n = lowering.shape(x)[static_cast<size_t>(dim)];
      BITLAB_TRY(auto parts, parts_of(lowering, x));
      const OpenTransform transform{lowering, n, normalization};
      BITLAB_TRY(parts, transform.of(parts[0], parts[1], dim, n, forward, true));
      BITLAB_TRY(x, joined_parts(lowering, parts));
      continue;
    }
    BITLAB_TRY(x, transformed(lowering, call, x, dim, true, true,
                              [&](int64_t n) { return complex_transform_of(n, scale_of(n, normalization), forward); }));
  }
  return x;
}

}  // namespace

// The same pairs, seen in another way.
Status lower_pairs(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.finish(call, x);
}

namespace {

// The pairs (a c -+ b d, a d +- b c) of (a, b) and (c, d): their product, or with the second conjugated.
Result<ValueId> pair_product(Lowering& lowering, ValueId x, ValueId y, bool conjugated) {
  BITLAB_TRY(const ValueId a, half_of(lowering, x, 0));
  BITLAB_TRY(const ValueId b, half_of(lowering, x, 1));
  BITLAB_TRY(const ValueId c, half_of(lowering, y, 0));
  BITLAB_TRY(const ValueId d, half_of(lowering, y, 1));
  const auto combined = [&](Op op, ValueId p, ValueId q, ValueId r, ValueId s) -> Result<ValueId> {
    BITLAB_TRY(const ValueId left, lowering.node(Op::mul, {p, q}));
    BITLAB_TRY(const ValueId right, lowering.node(Op::mul, {r, s}));
    BITLAB_TRY(const ValueId part, lowering.node(op, {left, right}));
    lowering.set_exactness(program::Exactness::kBounded);  // LibTorch may round a product and the sum at once
    return part;
  };
  BITLAB_TRY(const ValueId real, combined(conjugated ? Op::add : Op::sub, a, c, b, d));
  BITLAB_TRY(const ValueId imaginary, conjugated ? combined(Op::sub, b, c, a, d) : combined(Op::add, a, d, b, c));
  return lowering.node(Op::cat, {real, imaginary}, {{"dim", static_cast<int64_t>(lowering.shape(real).size()) - 1}});
}

// x / y = x conj(y) / |y|^2
Status lower_complex_div(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(const ValueId y, pairs_of(lowering, call, "other"));
  BITLAB_TRY(const ValueId product, pair_product(lowering, x, y, true));
  BITLAB_TRY(ValueId square, lowering.node(Op::mul, {y, y}));
  BITLAB_TRY(square, lowering.node(Op::sum, {square}));
  program::Shape shape = lowering.shape(square);
  shape.emplace_back(1);
  BITLAB_TRY(square, lowering.reshape(square, shape));
  return lowering.lower_to(call, Op::div, {product, square});
}

}  // namespace

// Whole powers, factor by factor.
Status lower_complex_pow(Lowering& lowering, const Call& call) {
  constexpr int64_t kMost = 16;
  const c10::Scalar exponent = call.argument("exponent").toScalar();
  const int64_t power = exponent.isComplex() ? 0 : static_cast<int64_t>(exponent.toDouble());
  if (power < 1 || power > kMost || static_cast<double>(power) != exponent.toDouble())
    return unsupported(call, fmt::format("an exponent of 1 to {} for complex values", kMost),
                       describe(call.argument("exponent")));
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  ValueId y = x;
  for (int64_t i = 1; i < power; ++i) {
    BITLAB_TRY(y, pair_product(lowering, y, x, false));
  }
  return lowering.finish(call, y);
}

// e^(a + b i) = e^a (cos b + sin b i)
Status lower_complex_unary(Lowering& lowering, const Call& call, Op op) {
  if (op != Op::exp) return unsupported(call, "a function of complex values that can be deployed", call.op);
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(ValueId size, half_of(lowering, x, 0));
  BITLAB_TRY(size, lowering.node(Op::exp, {size}));
  BITLAB_TRY(const ValueId angle, half_of(lowering, x, 1));
  std::vector<ValueId> parts;
  for (const Op part : {Op::cos, Op::sin}) {
    BITLAB_TRY(const ValueId y, lowering.node(part, {angle}));
    BITLAB_TRY(parts.emplace_back(), lowering.node(Op::mul, {size, y}));
  }
  return lowering.lower_to(call, Op::cat, parts, {{"dim", static_cast<int64_t>(lowering.shape(x).size()) - 1}});
}

// Sums and differences pair by pair, also with real values; quotients.
Status lower_complex_arithmetic(Lowering& lowering, const Call& call, Op op) {
  for (const Argument& argument : call.arguments)
    if (argument.name == "alpha" && !argument.value.toScalar().equal(1))
      return unsupported(call, "alpha 1 of complex values", describe(argument.value));
  if (op == Op::div && is_complex(call, "other")) return lower_complex_div(lowering, call);
  if (op != Op::add && op != Op::sub && op != Op::div)
    return unsupported(call, "sums, products and quotients of complex values", call.op);
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(const ValueId y, op == Op::div ? factor_of(lowering, call, "other") : pairs_of(lowering, call, "other"));
  return lowering.lower_to(call, op, {x, y});
}

// (a + b i)(c + d i) = (a c - b d) + (a d + b c) i
Status lower_complex_mul(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, factor_of(lowering, call, "self"));
  BITLAB_TRY(const ValueId y, factor_of(lowering, call, "other"));
  if (!is_complex(call, "self") || !is_complex(call, "other")) return lowering.lower_to(call, Op::mul, {x, y});
  BITLAB_TRY(const ValueId pairs, pair_product(lowering, x, y, false));
  return lowering.finish(call, pairs);
}

namespace {

// Two real arguments as the parts of pairs.
Status finish_pairs(Lowering& lowering, const Call& call, ValueId real, ValueId imaginary) {
  BITLAB_TRY(program::Shape shape, lowering.shape_of_output(call));
  shape.pop_back();
  BITLAB_TRY(real, expanded(lowering, real, shape));
  BITLAB_TRY(imaginary, expanded(lowering, imaginary, shape));
  shape.emplace_back(1);
  BITLAB_TRY(real, lowering.reshape(real, shape));
  BITLAB_TRY(imaginary, lowering.reshape(imaginary, shape));
  return lowering.lower_to(call, Op::cat, {real, imaginary}, {{"dim", static_cast<int64_t>(shape.size()) - 1}});
}

}  // namespace

// (A + B i)(C + D i) = (A C - B D) + (A D + B C) i
Status lower_complex_matmul(Lowering& lowering, const Call& call) {
  const char* second = call.op == "aten::matmul" ? "other" : call.op == "aten::mv" ? "vec" : "mat2";
  const std::array<const char*, 2> names{"self", second};
  std::array<std::array<ValueId, 2>, 2> parts{};
  for (size_t factor = 0; factor < 2; ++factor) {
    BITLAB_TRY(const ValueId pairs, pairs_of(lowering, call, names.at(factor)));
    for (size_t half = 0; half < 2; ++half) {
      BITLAB_TRY(ValueId part, half_of(lowering, pairs, static_cast<int64_t>(half)));
      program::Shape shape = lowering.shape(part);
      shape.pop_back();
      if (shape.size() == 1) shape.insert(factor == 0 ? shape.begin() : shape.end(), 1);
      BITLAB_TRY(parts.at(factor).at(half), lowering.reshape(part, shape));
    }
  }
  const auto [a, b] = parts[0];
  const auto [c, d] = parts[1];
  const auto combined = [&](Op op, ValueId p, ValueId q, ValueId r, ValueId s) -> Result<ValueId> {
    BITLAB_TRY(const ValueId left, multiplied(lowering, p, q));
    BITLAB_TRY(const ValueId right, multiplied(lowering, r, s));
    return lowering.node(op, {left, right});
  };
  BITLAB_TRY(const ValueId real, combined(Op::sub, a, c, b, d));
  BITLAB_TRY(const ValueId imaginary, combined(Op::add, a, d, b, c));
  BITLAB_TRY(program::Shape shape, lowering.shape_of_output(call));
  shape.pop_back();
  BITLAB_TRY(const ValueId x, lowering.reshape(real, shape));
  BITLAB_TRY(const ValueId y, lowering.reshape(imaginary, shape));
  return finish_pairs(lowering, call, x, y);
}

Status lower_complex_abs(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(x, lowering.node(Op::mul, {x, x}));
  BITLAB_TRY(x, lowering.node(Op::sum, {x}));
  BITLAB_TRY(x, lowering.node(Op::sqrt, {x}));
  return finish_real(lowering, call, x);
}

Status lower_angle(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(const ValueId real, half_of(lowering, x, 0));
  BITLAB_TRY(const ValueId imaginary, half_of(lowering, x, 1));
  BITLAB_TRY(const ValueId y, lowering.node(Op::atan2, {imaginary, real}));
  return finish_real(lowering, call, y);
}

Status lower_complex(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId real, lowering.operand_as(call, "real", at::kFloat));
  BITLAB_TRY(const ValueId imaginary, lowering.operand_as(call, "imag", at::kFloat));
  return finish_pairs(lowering, call, real, imaginary);
}
Status lower_polar(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId size, lowering.operand_as(call, "abs", at::kFloat));
  BITLAB_TRY(const ValueId angle, lowering.activation(call, "angle"));
  BITLAB_TRY(ValueId real, lowering.node(Op::cos, {angle}));
  BITLAB_TRY(real, lowering.node(Op::mul, {size, real}));
  BITLAB_TRY(ValueId imaginary, lowering.node(Op::sin, {angle}));
  BITLAB_TRY(imaginary, lowering.node(Op::mul, {size, imaginary}));
  return finish_pairs(lowering, call, real, imaginary);
}
Status lower_conj(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  return lowering.lower_to(call, Op::mul, {x, lowering.constant(at::tensor({1.0F, -1.0F}))});
}

// A cast of real values to complex ones.
Status lower_to_complex(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  return lowering.finish(call, x);
}

namespace {

// Frequencies to real values: each but the first, and that of n / 2, stands for its mirror image as well.
Status open_irfft(Lowering& lowering, const Call& call, ValueId x, int64_t dim) {
  BITLAB_TRY(const program::Dim n, lowering.dim_of(call, [](const Call& c) { return c.argument("last_dim_size").toInt(); }));
  const program::Dim frequencies = lowering.shape(x)[static_cast<size_t>(dim)];
  BITLAB_TRY(const ValueId k, counted_to(lowering, frequencies));
  BITLAB_TRY(const ValueId twice, with_number(lowering, Op::mul, k, 2));
  BITLAB_TRY(const ValueId size, lowering.size_value(n));
  BITLAB_TRY(ValueId weight, lowering.node(Op::equal, {twice, size}));
  BITLAB_TRY(const ValueId is_first, lowering.node(Op::equal, {k, lowering.number(0, at::kLong)}));
  BITLAB_TRY(weight, lowering.node(Op::maximum, {weight, is_first}));
  BITLAB_TRY(weight, lowering.node(Op::where, {weight, lowering.number(1, at::kFloat), lowering.number(2, at::kFloat)}));
  program::Shape aligned(lowering.shape(x).size() - static_cast<size_t>(dim), 1);
  aligned[0] = frequencies;
  BITLAB_TRY(weight, lowering.reshape(weight, aligned));
  BITLAB_TRY(x, lowering.node(Op::mul, {x, weight}));
  BITLAB_TRY(const auto parts, parts_of(lowering, x));
  const OpenTransform transform{lowering, n, call.argument("normalization").toInt()};
  BITLAB_TRY(const auto real, transform.of(parts[0], parts[1], dim, n, false, false));
  return finish_real(lowering, call, real[0]);
}

}  // namespace

// Transforms: of real values along the last dimension, of pairs along the others.
Status lower_rfft(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  Sizes dims = transformed_dims(call);
  const int64_t last = dims.back(), normalization = call.argument("normalization").toInt();
  const bool one_sided = call.argument("onesided").toBool();
  dims.pop_back();
  if (is_open(lowering, x, last)) {
    const program::Dim n = lowering.shape(x)[static_cast<size_t>(last)];
    BITLAB_TRY(const program::Dim count, lowering.dim_of(call, [&](const Call& c) { return output_of(c).size(last); }));
    const OpenTransform transform{lowering, n, normalization};
    BITLAB_TRY(const auto parts, transform.of(x, program::kNone, last, count, true, true));
    BITLAB_TRY(x, joined_parts(lowering, parts));
    BITLAB_TRY(x, complex_transformed(lowering, call, x, dims, true));
    return lowering.finish(call, x);
  }
  BITLAB_TRY(x, transformed(lowering, call, x, last, false, true, [&](int64_t n) {
               return transform_of(n, one_sided ? n / 2 + 1 : n, scale_of(n, normalization));
             }));
  BITLAB_TRY(x, complex_transformed(lowering, call, x, dims, true));
  return lowering.finish(call, x);
}
Status lower_fft(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(x, complex_transformed(lowering, call, x, transformed_dims(call), call.argument("forward").toBool()));
  return lowering.finish(call, x);
}
Status lower_irfft(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, pairs_of(lowering, call, "self"));
  Sizes dims = transformed_dims(call);
  const int64_t last = dims.back(), n = call.argument("last_dim_size").toInt(),
                normalization = call.argument("normalization").toInt();
  dims.pop_back();
  BITLAB_TRY(x, complex_transformed(lowering, call, x, dims, false));
  if (is_open(lowering, x, last)) return open_irfft(lowering, call, x, last);
  BITLAB_TRY(x, transformed(lowering, call, x, last, true, false, [&](int64_t frequencies) {
               return real_inverse_of(n, frequencies, scale_of(n, normalization));
             }));
  return finish_real(lowering, call, x);
}

namespace {

// [n, frames, length] of [n, values]: a frame begins a fixed number of values behind the one before.
Status lower_frames(Lowering& lowering, const Call& call, ValueId x, const program::Dim& values) {
  const int64_t length = call.argument("size").toIntVector()[2], hop = call.argument("stride").toIntVector()[1];
  const program::Dim samples = lowering.shape(x)[0];
  const auto count = [](const Call& c) { return output_of(c).size(1); };
  std::optional<program::Dim> frames = quotient(values, hop - length, hop);  // as many as there are
  if (!frames || !lowering.is_at(*frames, call, count)) {
    BITLAB_TRY(frames, lowering.dim_of(call, count));
  }
  lowering.at_least(values, length);
  BITLAB_TRY(x, lowering.reshape(x, {samples, values}));
  BITLAB_TRY(x, frames_of(lowering, x, 1, *frames, length, hop));
  return finish_real(lowering, call, x);
}

}  // namespace

// Windows that overlap, as a short-time transform takes them: each sample's values at constant places.
Status lower_as_strided(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const at::Tensor& self = call.argument("self").toTensor();
  const Sizes sizes = call.argument("size").toIntVector(), strides = call.argument("stride").toIntVector();
  const program::Shape shape = lowering.shape(x);
  const program::Dim values = program::volume({shape.begin() + 1, shape.end()});
  const bool by_sample =
      self.is_contiguous() && !sizes.empty() && sizes[0] == self.size(0) && strides[0] == self.stride(0) &&
      (!given(call, "storage_offset") || call.argument("storage_offset").toInt() == self.storage_offset());
  // Frames of a signal whose length differs from run to run.
  if (by_sample && !values.is_number() && sizes.size() == 3 && strides[2] == 1)
    return lower_frames(lowering, call, x, values);
  if (!by_sample || !values.is_number()) return unsupported(call, "strides within samples of fixed size", show(strides));
  at::Tensor places = at::zeros({1}, at::kLong);
  for (size_t i = 1; i < sizes.size(); ++i) places = places.unsqueeze(-1) + at::arange(sizes[i]) * strides[i];
  BITLAB_TRY(x, lowering.reshape(x, {shape[0], values}));
  BITLAB_TRY(x, lowering.node(Op::take, {x, lowering.constant(places.reshape({-1}))}, {{"dim", int64_t{1}}}));
  return finish_real(lowering, call, x);
}

}  // namespace bitlab::deploy
