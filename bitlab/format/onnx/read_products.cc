// Readers of products with weights, and of quantized values.
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

// x [..., k] by w [n, k].
Result<ValueId> linear(Reader& r, ValueId x, const Tensor& w, std::string_view name,
                       std::optional<ValueId> bias = std::nullopt) {
  const Shape shape = r.shape_of(x);
  BITLAB_TRY(const ValueId weight, r.constant(w, name));
  if (r.of(weight).kind != program::ValueKind::kConstant) return r.refuse("finite weights, got an infinite one");
  if (shape.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, shape[0]}));
  }
  std::vector<ValueId> inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  BITLAB_TRY(x, r.emit(Op::linear, inputs));
  return shape.size() == 1 ? r.reshape(x, {w.sizes[0]}) : Result<ValueId>(x);
}

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

// Matrices of two values, of two or more dimensions.
Result<ValueId> product(Reader& r, ValueId a, ValueId b) {
  BITLAB_TRY(const Shape batch, broadcast_batch(r, batch_of(r.shape_of(a)), batch_of(r.shape_of(b))));
  BITLAB_TRY(a, r.as_activation(a));
  BITLAB_TRY(a, in_batch(r, a, batch));
  if (r.shape_of(b).size() != 2) {
    BITLAB_TRY(b, in_batch(r, b, batch));
  }
  return r.emit(Op::matmul, {a, b});
}

}  // namespace

Result<Operands> read_matmul(Reader& r) {
  Shape a = r.shape(0), b = r.shape(1);
  if (a.empty() || b.empty()) return r.corrupt("vectors or matrices, got {} and {}", r.show(a), r.show(b));
  BITLAB_TRY(ValueId x, r.activation(0));
  if (const Tensor* w = weight(r, 1, 2)) {
    BITLAB_TRY(const Tensor across, r.folding.permuted(*w, {1, 0}));
    return single(linear(r, x, across, r.node().inputs[1]));
  }
  BITLAB_TRY(ValueId y, r.value(1));
  if (a.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, a[0]}));
  }
  if (b.size() == 1) {
    BITLAB_TRY(y, r.reshape(y, {b[0], 1}));
  }
  BITLAB_TRY(ValueId result, product(r, x, y));
  Shape shape = r.shape_of(result);
  if (b.size() == 1) shape.pop_back();
  if (a.size() == 1) shape.erase(shape.end() - (b.size() == 1 ? 1 : 2));
  return single(r.reshape(result, shape));
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
        BITLAB_TRY(bias, r.constant(*row, r.node().inputs[2]));
      }
    }
    has_bias = has_bias && !bias;
    BITLAB_TRY(y, linear(r, x, w, r.node().inputs[1], bias));
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

Result<Operands> read_conv(Reader& r) {
  const bool transposed = r.node().type == "ConvTranspose";
  const Shape x_shape = r.shape(0);
  BITLAB_TRY(const Tensor w, r.known(1, "weights of convolutions"));
  if (w.type != ElementType::kFloat || w.sizes.size() != x_shape.size() || w.sizes.size() < 3)
    return r.refuse("float32 weights [rows, channels, kernel...], got {}{}", name_of(w.type), program::to_string(w.sizes));
  BITLAB_TRY(WindowSizes window, window_sizes(r, {w.sizes.begin() + 2, w.sizes.end()}, transposed));
  const int64_t groups = r.integer("group", 1);
  BITLAB_TRY(const Tensor ordered, filters(r, w, groups, transposed));
  BITLAB_TRY(const ValueId weight, r.constant(ordered, r.node().inputs[1]));
  BITLAB_TRY(ValueId x, r.activation(0));
  const bool is_even = window.before == window.behind;
  if (!is_even && !transposed) {
    BITLAB_TRY(x, padded_image(r, x, window, 0));
  }
  Ints padding = is_even ? window.before : Ints(window.before.size(), 0);
  std::vector<ValueId> inputs{x, weight};
  if (r.has(2)) {
    BITLAB_TRY(const Tensor bias, r.known(2, "a bias"));
    BITLAB_TRY(inputs.emplace_back(), r.constant(bias, r.node().inputs[2]));
  }
  BITLAB_TRY(ValueId y, r.emit(Op::conv, inputs,
                               {{"stride", window.stride},
                                {"padding", padding},
                                {"dilation", window.dilation},
                                {"transposed", int64_t{transposed ? 1 : 0}},
                                {"output_padding", window.output_padding},
                                {"groups", groups}}));
  return single(is_even || !transposed ? Result<ValueId>(y) : cut(r, y, window.before, window.behind));
}

// --- quantized values

namespace {

// A scale or zero point beside x: one number, one for each place of an axis, or one for each block of it.
Result<Tensor> beside(Reader& r, const Tensor& scale, const Ints& x, int64_t axis, int64_t block) {
  if (scale.count() == 1) return reshaped(scale, {});
  BITLAB_TRY(const int64_t dim, r.axis(axis, x.size()));
  const auto at = static_cast<size_t>(dim);
  if (block == 0) {
    Ints sizes(x.size(), 1);
    sizes[at] = x[at];
    if (scale.count() != x[at]) return r.corrupt("{} scales, got {}", x[at], scale.count());
    return reshaped(scale, sizes);
  }
  Ints expected = x;
  if (block > 0) expected[at] = ceil_div(x[at], block);
  if (block < 0 || scale.sizes != expected)
    return r.corrupt("scales {}, got {}", program::to_string(expected), program::to_string(scale.sizes));
  const Ints strides = program::StridedView(scale.sizes).strides;
  return r.folding.picked(scale, x, [&](int64_t i) {
    int64_t from = 0;
    for (size_t d = x.size(); d-- > 0; i /= x[d]) from += (d == at ? i % x[d] / block : i % x[d]) * strides[d];
    return from;
  });
}

struct Quantization {
  Tensor scale;
  std::optional<Tensor> zero;  // nothing: 0
  ElementType type = ElementType::kUint8;
};

Result<Quantization> quantization_of(Reader& r, const Shape& shape) {
  const int64_t axis = r.integer("axis", 1), block = r.integer("block_size", 0);
  const Ints sizes = shape_at(shape, program::kOnes);
  if (block != 0 && !program::is_fixed(shape)) return r.refuse("blocks of constants, got {}", r.show(shape));
  Quantization q;
  BITLAB_TRY(const Tensor scale, r.known(1, "scales"));
  BITLAB_TRY(q.scale, beside(r, scale, sizes, axis, block));
  if (r.has(2)) {
    BITLAB_TRY(const Tensor zero, r.known(2, "zero points"));
    q.type = zero.type;
    bool is_zero = true;
    for (int64_t i = 0; i < zero.count(); ++i) is_zero = is_zero && zero.number(i) == 0;
    if (!is_zero) {
      BITLAB_TRY(q.zero, beside(r, zero, sizes, axis, block));
    }
  }
  if (const int64_t type = r.integer("output_dtype", 0); type != 0) q.type = static_cast<ElementType>(type);
  return q;
}

Result<Term> floats_of(Reader& r, const Tensor& tensor) {
  BITLAB_TRY(const Tensor floats, r.folding.cast(tensor, ElementType::kFloat));
  return Term(r, r.constant(floats));
}

bool is_one(const Tensor& scale) { return scale.count() == 1 && scale.number(0) == 1; }

std::optional<std::pair<double, double>> range_of(ElementType type) {
  if (type == ElementType::kInt8) return std::pair{-128.0, 127.0};
  if (type == ElementType::kUint8) return std::pair{0.0, 255.0};
  return std::nullopt;
}

}  // namespace

Result<Operands> read_quantize(Reader& r) {
  BITLAB_TRY(const Quantization q, quantization_of(r, r.shape(0)));
  const auto range = range_of(q.type);
  if (!range) return r.refuse("int8 or uint8, got {}", name_of(q.type));
  if (const Tensor* x = r.tensor(0)) {
    BITLAB_TRY(const Tensor ratio,
               r.folding.binary(
                   *x, q.scale, ElementType::kFloat,
                   [](double a, double b) { return std::nearbyint(static_cast<float>(a / b)); }, nullptr));
    BITLAB_TRY(const Tensor zero,
               q.zero ? Result<Tensor>(*q.zero) : r.folding.of_integers(q.type, {}, [](int64_t) { return 0; }));
    return single(r.folding.binary(
        ratio, zero, q.type, [&](double a, double b) { return std::clamp(a + b, range->first, range->second); }, nullptr));
  }
  Term y(r, r.activation(0));
  if (!is_one(q.scale)) {
    BITLAB_TRY(const Term scale, floats_of(r, q.scale));
    y = y / scale;
  }
  y = y.of(Op::round);
  if (q.zero) {
    BITLAB_TRY(const Term zero, floats_of(r, *q.zero));
    y = y + zero;
  }
  y = min(max(y, range->first), range->second);
  BITLAB_TRY(const ValueId id, y.id());
  r.keep_as(id, q.type);
  return Operands{id};
}

Result<Operands> read_dequantize(Reader& r) {
  BITLAB_TRY(const Quantization q, quantization_of(r, r.shape(0)));
  if (q.scale.type != ElementType::kFloat) return r.refuse("float32 scales, got {}", name_of(q.scale.type));
  if (const Tensor* x = r.tensor(0)) {
    Tensor t = *x;
    if (q.zero) {
      BITLAB_TRY(t, r.folding.binary(t, *q.zero, ElementType::kInt32, nullptr, [](int64_t a, int64_t b) { return a - b; }));
    }
    return single(r.folding.binary(
        t, q.scale, ElementType::kFloat, [](double a, double b) { return a * b; }, nullptr));
  }
  BITLAB_TRY(const ValueId x, r.activation(0));
  Term y(r, x);
  if (r.of(x).dtype != program::DType::kFloat32) y = y.cast(program::DType::kFloat32);
  if (q.zero) {
    BITLAB_TRY(const Term zero, floats_of(r, *q.zero));
    y = y - zero;
  }
  if (!is_one(q.scale)) {
    BITLAB_TRY(const Term scale, floats_of(r, q.scale));
    y = y * scale;
  }
  // The same value without the mark of eight bits.
  BITLAB_TRY(const ValueId id, y.id());
  return id == x ? single(r.unmarked(x)) : Result<Operands>(Operands{id});
}

// Codes of `bits` bits in blocks of a row, with a scale and a zero point each (com.microsoft).
Result<Operands> read_matmul_nbits(Reader& r) {
  const int64_t k = r.integer("K", 0), n = r.integer("N", 0), bits = r.integer("bits", 4),
                block = r.integer("block_size", 0);
  const bool is_valid = k > 0 && n > 0 && block > 0 && k <= program::kMaxElements && n <= program::kMaxElements &&
                        block <= program::kMaxElements && (bits == 2 || bits == 4 || bits == 8);
  if (!is_valid) return r.corrupt("K, N, block_size and bits of 2, 4, 8, got {}, {}, {}, {}", k, n, block, bits);
  if (r.has(4)) return r.refuse("blocks in their order, got g_idx");
  BITLAB_TRY(const Tensor codes, r.known(1, "weights"));
  BITLAB_TRY(const Tensor scales, r.known(2, "scales"));
  const int64_t blocks = ceil_div(k, block), in_byte = 8 / bits, row = blocks * block / in_byte;
  if (codes.stored != ElementType::kUint8 || codes.count() != program::saturated_product(n, row) ||
      scales.count() != n * blocks)
    return r.corrupt("{} bytes of codes and {} scales, got {} and {}", program::saturated_product(n, row), n * blocks,
                     codes.count(), scales.count());
  std::optional<Tensor> zeros;
  const int64_t zero_row = ceil_div(blocks, in_byte);
  if (r.has(3)) {
    BITLAB_TRY(zeros, r.known(3, "zero points"));
    if (zeros->stored != ElementType::kUint8 || zeros->count() != n * zero_row)
      return r.corrupt("{} bytes of zero points, got {}", n * zero_row, zeros->count());
  }
  const int64_t mask = (int64_t{1} << bits) - 1;
  const auto code = [&](const Tensor& from, int64_t start, int64_t i) {
    return from.integer(start + i / in_byte) >> (bits * (i % in_byte)) & mask;
  };
  BITLAB_TRY(Tensor w, r.folding.of_numbers(ElementType::kFloat, {n, k}, [&](int64_t i) {
    const int64_t at = i / k, column = i % k, b = column / block;
    const int64_t zero = zeros ? code(*zeros, at * zero_row, b) : int64_t{1} << (bits - 1);
    return static_cast<double>(code(codes, at * row, column) - zero) * scales.number(at * blocks + b);
  }));
  w.name = codes.name;
  BITLAB_TRY(const ValueId x, r.activation(0));
  std::optional<ValueId> bias;
  if (r.has(5)) {
    BITLAB_TRY(const Tensor given, r.known(5, "a bias"));
    BITLAB_TRY(bias, r.constant(given, r.node().inputs[5]));
  }
  return single(linear(r, x, w, r.node().inputs[1], bias));
}

}  // namespace bitlab::format::onnx
