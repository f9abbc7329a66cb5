// Complex values, as pairs of real ones in a last dimension, and what makes them: Fourier transforms as products with constant matrices.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// The pairs of a complex argument.
Result<ValueId> pairs_of(Lowering& lowering, const Call& call, const char* name) {
  const at::Tensor& tensor = call.argument(name).toTensor();
  if (!tensor.is_complex()) return unsupported(call, "two complex factors", describe(call.argument(name)));
  if (lowering.is_activation(tensor)) return lowering.activation(call, name);
  return lowering.constant_of(call,
                              [&](const Call& c) { return at::view_as_real(c.argument(name).toTensor().resolve_conj()); });
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

// The matrix [2 frequencies, n] of a transform of n real values: cosines and sines, row by row in pairs.
at::Tensor transform_of(int64_t n, int64_t frequencies, int64_t normalization) {
  const double scale = normalization == 0   ? 1
                       : normalization == 1 ? 1 / std::sqrt(static_cast<double>(n))
                                            : 1 / static_cast<double>(n);
  std::vector<float> values;
  for (int64_t k = 0; k < frequencies; ++k)
    for (const bool is_sine : {false, true})
      for (int64_t j = 0; j < n; ++j) {
        const double angle = 2 * std::numbers::pi * static_cast<double>(j * k % n) / static_cast<double>(n);
        values.push_back(static_cast<float>(scale * (is_sine ? -std::sin(angle) : std::cos(angle))));
      }
  return at::tensor(values).view({2 * frequencies, n});
}

}  // namespace

// The same pairs, seen in another way.
Status lower_pairs(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.finish(call, x);
}

// (a + b i)(c + d i) = (a c - b d) + (a d + b c) i
Status lower_complex_mul(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, pairs_of(lowering, call, "self"));
  BITLAB_TRY(const ValueId y, pairs_of(lowering, call, "other"));
  BITLAB_TRY(const ValueId a, half_of(lowering, x, 0));
  BITLAB_TRY(const ValueId b, half_of(lowering, x, 1));
  BITLAB_TRY(const ValueId c, half_of(lowering, y, 0));
  BITLAB_TRY(const ValueId d, half_of(lowering, y, 1));
  const auto combined = [&](Op op, ValueId p, ValueId q, ValueId r, ValueId s) -> Result<ValueId> {
    BITLAB_TRY(const ValueId left, lowering.node(Op::mul, {p, q}));
    BITLAB_TRY(const ValueId right, lowering.node(Op::mul, {r, s}));
    BITLAB_TRY(const ValueId y_part, lowering.node(op, {left, right}));
    lowering.set_exactness(program::Exactness::kBounded);  // LibTorch may round a product and the sum at once
    return y_part;
  };
  BITLAB_TRY(const ValueId real, combined(Op::sub, a, c, b, d));
  BITLAB_TRY(const ValueId imaginary, combined(Op::add, a, d, b, c));
  const auto last = static_cast<int64_t>(lowering.shape(real).size()) - 1;
  BITLAB_TRY(const ValueId pairs, lowering.node(Op::cat, {real, imaginary}, {{"dim", last}}));
  return lowering.finish(call, pairs);
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

// A transform of real values along one dimension of fixed size.
Status lower_rfft(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const Sizes dims = call.argument("dim").toIntVector();
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  const int64_t dim = dims.size() == 1 ? wrap_dim(dims[0], rank) : -1;
  if (dim < 0 || !lowering.shape(x)[static_cast<size_t>(dim)].is_number())
    return unsupported(call, "one dimension of fixed size", show(dims));
  const int64_t n = lowering.shape(x)[static_cast<size_t>(dim)].factor,
                frequencies = call.argument("onesided").toBool() ? n / 2 + 1 : n;
  Sizes order(static_cast<size_t>(rank));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::rotate(order.begin() + dim, order.begin() + dim + 1, order.end());
  BITLAB_TRY(x, lowering.node(Op::permute, {x}, {{"dims", order}}));
  const ValueId matrix = lowering.constant(transform_of(n, frequencies, call.argument("normalization").toInt()));
  BITLAB_TRY(x, lowering.node(Op::linear, {x, matrix}));
  program::Shape shape = lowering.shape(x);
  shape.back() = frequencies;
  shape.emplace_back(2);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  Sizes back(static_cast<size_t>(rank + 1));
  std::iota(back.begin(), back.end(), int64_t{0});
  std::rotate(back.begin() + dim, back.end() - 2, back.end() - 1);
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", back}});
}

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
  if (!by_sample || !values.is_number()) return unsupported(call, "strides within samples of fixed size", show(strides));
  at::Tensor places = at::zeros({1}, at::kLong);
  for (size_t i = 1; i < sizes.size(); ++i) places = places.unsqueeze(-1) + at::arange(sizes[i]) * strides[i];
  BITLAB_TRY(x, lowering.reshape(x, {shape[0], values}));
  BITLAB_TRY(x, lowering.node(Op::take, {x, lowering.constant(places.reshape({-1}))}, {{"dim", int64_t{1}}}));
  return finish_real(lowering, call, x);
}

}  // namespace bitlab::deploy
