// Readers of products with weights.
#include "bitlab/format/onnx/internal/read_products.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/onnx/internal/readers.h"
#include "bitlab/format/onnx/internal/windows.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// A float matrix that is known, which layers take as a weight; null where it is none.
const Tensor* weight(const Reader& r, size_t input, size_t rank) {
  const Tensor* tensor = r.tensor(input);
  return tensor != nullptr && tensor->type == ElementType::kFloat && tensor->sizes.size() == rank ? tensor : nullptr;
}

}  // namespace

Result<ValueId> linear(Reader& r, ValueId x, const Tensor& w, std::string_view name, std::optional<ValueId> bias) {
  const Shape shape = r.shape_of(x);
  BITLAB_TRY(const ValueId weight, r.constant(w, name));
  if (shape.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, shape[0]}));
  }
  std::vector<ValueId> inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  BITLAB_TRY(x, r.emit(Op::linear, inputs));
  return shape.size() == 1 ? r.reshape(x, {w.sizes[0]}) : Result<ValueId>(x);
}

namespace {

Shape batch_of(const Shape& shape) { return {shape.begin(), shape.end() - 2}; }

// x with the batch dimensions of a product.
Result<ValueId> in_batch(Reader& r, ValueId x, Shape batch) {
  const Shape own = r.shape_of(x);
  batch.insert(batch.end(), own.end() - 2, own.end());
  return r.expand(x, batch);
}

Result<Shape> broadcast_batch(const Reader& r, const Shape& a, const Shape& b) {
  Shape y(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < y.size(); ++i) {
    const Dim left = i < a.size() ? a[a.size() - 1 - i] : Dim(1), right = i < b.size() ? b[b.size() - 1 - i] : Dim(1);
    if (left != right && left != Dim(1) && right != Dim(1))
      return r.refuse("batches that broadcast, got {} and {}", r.show(a), r.show(b));
    y[y.size() - 1 - i] = left == Dim(1) ? right : left;
  }
  return y;
}

}  // namespace

Result<ValueId> product(Reader& r, ValueId a, ValueId b) {
  BITLAB_TRY(const Shape batch, broadcast_batch(r, batch_of(r.shape_of(a)), batch_of(r.shape_of(b))));
  BITLAB_TRY(a, r.as_activation(a));
  BITLAB_TRY(a, in_batch(r, a, batch));
  if (r.shape_of(b).size() != 2) {
    BITLAB_TRY(b, in_batch(r, b, batch));
  }
  return r.emit(Op::matmul, {a, b});
}

Result<ValueId> vectors_product(Reader& r, ValueId x, ValueId y) {
  const Shape a = r.shape_of(x), b = r.shape_of(y);
  if (a.empty() || b.empty()) return r.corrupt("vectors or matrices, got {} and {}", r.show(a), r.show(b));
  if (a.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, a[0]}));
  }
  if (b.size() == 1) {
    BITLAB_TRY(y, r.reshape(y, {b[0], 1}));
  }
  BITLAB_TRY(const ValueId result, product(r, x, y));
  Shape shape = r.shape_of(result);
  if (b.size() == 1) shape.pop_back();
  if (a.size() == 1) shape.erase(shape.end() - (b.size() == 1 ? 1 : 2));
  return r.reshape(result, shape);
}

Result<Operands> read_matmul(Reader& r) {
  BITLAB_TRY(const ValueId x, r.activation(0));
  if (const Tensor* w = weight(r, 1, 2); w != nullptr && !r.shape_of(x).empty()) {
    BITLAB_TRY(const Tensor across, r.folding.permuted(*w, {1, 0}));
    return single(linear(r, x, across, r.input_name(1)));
  }
  BITLAB_TRY(const ValueId y, r.value(1));
  return single(vectors_product(r, x, y));
}

namespace {

// The bias of a Gemm that is one number a column; nothing where it is none.
Result<std::optional<Tensor>> row_bias(Reader& r, size_t input, int64_t columns) {
  const Tensor* c = r.tensor(input);
  if (c == nullptr || c->type != ElementType::kFloat || c->sizes.size() > 2 || (c->sizes.size() == 2 && c->sizes[0] != 1))
    return std::optional<Tensor>();
  const int64_t size = c->sizes.empty() ? 1 : c->sizes.back();
  if (size != 1 && size != columns) return std::optional<Tensor>();
  BITLAB_TRY(Tensor bias, r.folding.broadcast(reshaped(*c, {size}), {columns}));
  return std::optional(std::move(bias));
}

}  // namespace

Result<Operands> read_gemm(Reader& r) {
  const float alpha = r.number("alpha", 1), beta = r.number("beta", 1);
  const bool turns_b = r.integer("transB", 0) != 0;
  if (r.shape(0).size() != 2 || r.shape(1).size() != 2)
    return r.corrupt("matrices, got {} and {}", r.show(r.shape(0)), r.show(r.shape(1)));
  BITLAB_TRY(ValueId x, r.activation(0));
  if (r.integer("transA", 0) != 0) {
    BITLAB_TRY(x, r.permute(x, {1, 0}));
  }
  bool has_bias = r.has(2);
  ValueId y = program::kNone;
  if (const Tensor* b = weight(r, 1, 2)) {
    Tensor w = *b;
    if (!turns_b) {
      BITLAB_TRY(w, r.folding.permuted(w, {1, 0}));
    }
    std::optional<ValueId> bias;
    if (has_bias && alpha == 1 && beta == 1) {
      BITLAB_TRY(const auto row, row_bias(r, 2, w.sizes[0]));
      if (row) {
        BITLAB_TRY(bias, r.constant(*row, r.input_name(2)));
      }
    }
    has_bias = has_bias && !bias;
    BITLAB_TRY(y, linear(r, x, w, r.input_name(1), bias));
  } else {
    BITLAB_TRY(ValueId b_id, r.value(1));
    if (turns_b) {
      BITLAB_TRY(b_id, r.permute(b_id, {1, 0}));
    }
    BITLAB_TRY(y, product(r, x, b_id));
  }
  Term result(r, y);
  if (alpha != 1) result = result * double{alpha};
  if (!has_bias) return single(result);
  if (beta == 1) return single(result + Term(r, r.value(2)));
  return single(result + Term(r, r.activation(2)) * double{beta});
}

// --- convolutions

namespace {

// [rows, channels / groups, kernel...] of ONNX, transposed ones [channels, rows / groups, kernel...], as [rows, kernel..., channels / groups].
Result<Tensor> filters(Reader& r, const Tensor& w, int64_t groups, bool transposed) {
  if (groups < 1 || w.sizes[0] % groups != 0) return r.corrupt("rows in {} groups, got {}", groups, w.sizes[0]);
  Ints parts{groups, w.sizes[0] / groups};
  parts.insert(parts.end(), w.sizes.begin() + 1, w.sizes.end());
  Ints dims{0, 1};
  for (int64_t axis = 3; axis < static_cast<int64_t>(parts.size()); ++axis) dims.push_back(axis);
  dims.push_back(2);
  if (transposed) std::swap(dims[1], dims.back());
  BITLAB_TRY(Tensor result, r.folding.permuted(reshaped(w, parts), dims));
  result.sizes[1] *= groups;
  result.sizes.erase(result.sizes.begin());
  return result;
}

// Of a transposed convolution whose output is cut at both ends: that without padding, cut.
Result<ValueId> cut(Reader& r, ValueId y, const Ints& before, const Ints& behind) {
  for (size_t i = 0; i < before.size(); ++i) {
    const Dim& size = r.shape_of(y)[i + 2];
    if (before[i] == 0 && behind[i] == 0) continue;
    if (!size.is_number()) return r.refuse("sizes that are numbers, got {}", r.show({size}));
    BITLAB_TRY(y, r.slice(y, static_cast<int64_t>(i) + 2, before[i], size.factor - before[i] - behind[i]));
  }
  return y;
}

}  // namespace

Result<ValueId> convolved(Reader& r, ValueId x, const Tensor& w, std::optional<ValueId> bias, bool transposed) {
  if (w.type != ElementType::kFloat || w.sizes.size() != r.shape_of(x).size() || w.sizes.size() < 3)
    return r.refuse("float32 weights [rows, channels, kernel...], got {}{}", name_of(w.type), program::to_string(w.sizes));
  BITLAB_TRY(const WindowSizes window, window_sizes(r, {w.sizes.begin() + 2, w.sizes.end()}, transposed));
  const int64_t groups = r.integer("group", 1);
  BITLAB_TRY(const Tensor ordered, filters(r, w, groups, transposed));
  BITLAB_TRY(const ValueId weight, r.constant(ordered, w.name.empty() ? r.node().outputs[0] : w.name));
  const bool is_even = window.before == window.behind;
  if (!is_even && !transposed) {
    BITLAB_TRY(x, padded_image(r, x, window, 0));
  }
  const Ints padding = is_even ? window.before : Ints(window.before.size(), 0);
  std::vector<ValueId> inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  BITLAB_TRY(const ValueId y, r.emit(Op::conv, inputs,
                                     {{"stride", window.stride},
                                      {"padding", padding},
                                      {"dilation", window.dilation},
                                      {"transposed", int64_t{transposed ? 1 : 0}},
                                      {"output_padding", window.output_padding},
                                      {"groups", groups}}));
  return is_even || !transposed ? Result<ValueId>(y) : cut(r, y, window.before, window.behind);
}

Result<Operands> read_conv(Reader& r) {
  BITLAB_TRY(const Tensor w, r.known(1, "weights of convolutions"));
  std::optional<ValueId> bias;
  if (r.has(2)) {
    BITLAB_TRY(const Tensor given, r.known(2, "a bias"));
    BITLAB_TRY(bias, r.constant(given, r.input_name(2)));
  }
  BITLAB_TRY(const ValueId x, r.activation(0));
  return single(convolved(r, x, w, bias, r.node().type == "ConvTranspose"));
}

}  // namespace bitlab::format::onnx
