// Readers of Fourier transforms, as products with a constant matrix, and of windows.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr double kCircle = 2 * std::numbers::pi;
constexpr int64_t kMostSamples = 1 << 14;

// A transform of n values of `parts` (1: real, 2: complex) into m of `results`.
struct Transform {
  int64_t n = 0, m = 0, length = 0, parts = 1, results = 2;
  bool inverse = false;
};

// What value t of a part adds to value k of a result.
double share(const Transform& f, int64_t result, int64_t k, int64_t part, int64_t t) {
  const double angle = kCircle * static_cast<double>(k * t % f.length) / static_cast<double>(f.length);
  const double turn = f.inverse ? angle : -angle;  // e^(i turn)
  const double value = result == part ? std::cos(turn) : result == 0 ? -std::sin(turn) : std::sin(turn);
  if (!f.inverse) return t < f.length ? value : 0;
  if (f.results == 2) return t < f.length ? value / static_cast<double>(f.length) : 0;
  if (t > f.length / 2) return 0;
  const bool is_once = t == 0 || 2 * t == f.length;  // others stand for their mirror image, too
  return (is_once ? value : 2 * value) / static_cast<double>(f.length);
}

Result<std::optional<int64_t>> one_number(Reader& r, size_t input, std::string_view what) {
  if (!r.has(input)) return std::optional<int64_t>();
  BITLAB_TRY(const Ints given, r.integers(input, what));
  if (given.size() != 1) return r.corrupt("one number as {}, got {}", what, given.size());
  return std::optional(given[0]);
}

Result<Transform> transform_of(Reader& r, const Shape& shape, int64_t dim) {
  Transform f;
  const Dim &size = shape[static_cast<size_t>(dim)], &parts = shape.back();
  if (!size.is_number() || (parts != Dim(1) && parts != Dim(2)))
    return r.refuse("a number of values that is known, of 1 or 2 parts, got {}", r.show(shape));
  const bool is_half = r.integer("onesided", 0) != 0;
  f.n = size.factor, f.parts = parts.factor, f.inverse = r.integer("inverse", 0) != 0;
  BITLAB_TRY(const auto given, one_number(r, 1, "a length"));
  f.length = given ? *given : f.inverse && is_half ? 2 * (f.n - 1) : f.n;
  if (f.length < 1 || f.length > kMostSamples || f.n > kMostSamples)
    return r.refuse("1 to {} values, got {} of {}", kMostSamples, f.length, f.n);
  f.results = f.inverse && is_half ? 1 : 2;
  f.m = is_half && !f.inverse ? f.length / 2 + 1 : f.length;
  return f;
}

}  // namespace

Result<Operands> read_dft(Reader& r) {
  constexpr int64_t kAxisAsInput = 20;
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Shape shape = r.shape(0);
  BITLAB_TRY(const auto given, one_number(r, 2, "an axis"));
  BITLAB_TRY(const int64_t dim, r.axis(given ? *given : r.opset() < kAxisAsInput ? r.integer("axis", 1) : -2, shape.size()));
  if (shape.size() < 2 || dim + 1 == static_cast<int64_t>(shape.size()))
    return r.corrupt("an axis in front of real and imaginary parts, got {} of {}", dim, r.show(shape));
  BITLAB_TRY(const Transform f, transform_of(r, shape, dim));
  const int64_t columns = f.parts * f.n;
  BITLAB_TRY(const Tensor matrix, r.folding.of_numbers(ElementType::kFloat, {f.results * f.m, columns}, [&](int64_t i) {
    const int64_t row = i / columns, column = i % columns;
    return share(f, row / f.m, row % f.m, column / f.n, column % f.n);
  }));
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, r.to_last(id, dim));  // [..., parts, n]
  Shape rows = r.shape_of(id);
  rows.pop_back();
  rows.back() = columns;
  BITLAB_TRY(id, r.reshape(id, rows));
  BITLAB_TRY(id, linear(r, id, matrix, r.node().outputs[0]));
  rows.back() = f.results;
  rows.emplace_back(f.m);
  BITLAB_TRY(id, r.reshape(id, rows));
  return single(r.from_last(id, dim));
}

// Of frames of a real signal: a convolution with the waves of each frequency, in the window.
Result<Operands> read_stft(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Shape shape = r.shape(0);
  if ((shape.size() != 2 && shape.size() != 3) || (shape.size() == 3 && shape[2] != Dim(1)))
    return r.refuse("a real signal [batch, n] or [batch, n, 1], got {}", r.show(shape));
  BITLAB_TRY(const auto step, one_number(r, 1, "a step"));
  BITLAB_TRY(const auto given, one_number(r, 3, "a length"));
  std::optional<Tensor> window;
  if (r.has(2)) {
    BITLAB_TRY(window, r.known(2, "a window"));
  }
  const int64_t length = given ? *given : window ? window->count() : 0;
  if (!step || *step < 1 || *step > kMostSamples || length < 1 || length > kMostSamples ||
      (window && window->count() != length))
    return r.refuse("a step and a window of one length, up to {}, got {} and {}", kMostSamples, step ? *step : 0, length);
  const int64_t bins = r.integer("onesided", 1) != 0 ? length / 2 + 1 : length;
  const Transform f{length, bins, length, 1, 2, false};
  BITLAB_TRY(const Tensor waves, r.folding.of_numbers(ElementType::kFloat, {2 * bins, length, 1}, [&](int64_t i) {
    const int64_t row = i / length, t = i % length;
    return share(f, row % 2, row / 2, 0, t) * (window ? window->number(t) : 1);
  }));
  BITLAB_TRY(const ValueId weight, r.constant(waves, r.node().outputs[0]));
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, r.reshape(id, {shape[0], 1, shape[1]}));
  BITLAB_TRY(id, r.emit(Op::conv, {id, weight},
                        {{"stride", Ints{*step}},
                         {"padding", Ints{0}},
                         {"dilation", Ints{1}},
                         {"transposed", int64_t{0}},
                         {"output_padding", Ints{0}},
                         {"groups", int64_t{1}}}));
  const Dim frames = r.shape_of(id)[2];
  BITLAB_TRY(id, r.reshape(id, {shape[0], bins, 2, frames}));
  return single(r.permute(id, {0, 3, 1, 2}));
}

// Sums of cosines.
Result<Operands> read_window(Reader& r) {
  BITLAB_TRY(const auto size, one_number(r, 0, "a size"));
  if (!size || *size < 1 || *size > kMostSamples)
    return r.refuse("a size from 1 to {}, got {}", kMostSamples, size ? *size : 0);
  const std::string_view type = r.node().type;
  const double a = type == "HannWindow" ? 0.5 : type == "HammingWindow" ? 25.0 / 46.0 : 0.42;
  const double b = type == "BlackmanWindow" ? 0.5 : 1 - a, c = type == "BlackmanWindow" ? 0.08 : 0;
  const int64_t period = std::max<int64_t>(r.integer("periodic", 1) != 0 ? *size : *size - 1, 1);
  const auto to = static_cast<ElementType>(r.integer("output_datatype", static_cast<int64_t>(ElementType::kFloat)));
  if (!is_float(to)) return r.refuse("a window of floats, got {}", name_of(to));
  return single(r.folding.of_numbers(to, {*size}, [&](int64_t i) {
    const double angle = kCircle * static_cast<double>(i) / static_cast<double>(period);
    return a - b * std::cos(angle) + c * std::cos(2 * angle);
  }));
}

}  // namespace bitlab::format::onnx
