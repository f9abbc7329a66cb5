// Products with weights, ternary ones as the variant keeps them: activations, sums, scales.
#include "bitlab/format/onnx/internal/products.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/half.h"
#include "bitlab/format/onnx/internal/operations.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::format::onnx {

using program::input_of;
using program::Int8Data;
using program::Node;
using program::Op;
using program::Shape;
using program::Sizes;
using program::TernaryData;
using program::Value;

namespace {

constexpr size_t kWeight = input_of(Op::ternary_linear, "weight"), kBias = input_of(Op::ternary_linear, "bias"),
                 kStep = input_of(Op::ternary_linear, "act_scale");

// A weight of integers: t and its scales, of TernaryData or Int8Data.
struct Weight {
  const Value* value = nullptr;
  std::vector<int8_t> t;  // [rows, depth]
  int64_t rows = 0, depth = 0;
  std::vector<float> scale, scale_neg;  // [1] or [rows], of groups [rows, ceil(depth / group)]
  int64_t group = 0;
  bool is_int8 = false;

  Ints sizes() const { return shape_at(value->shape, program::kOnes); }
  // t where it has the sign, else 0.
  std::vector<int8_t> only(int8_t sign) const {
    std::vector<int8_t> kept(t.size());
    std::transform(t.begin(), t.end(), kept.begin(), [&](int8_t v) { return v == sign ? int8_t{1} : int8_t{0}; });
    return kept;
  }
};

Weight weight_of(const Writer& w, const Node& node) {
  Weight weight;
  weight.value = &w.value(node, kWeight);
  weight.rows = program::weight_rows(weight.value->shape), weight.depth = program::weight_depth(weight.value->shape);
  const auto& data = w.p.constant(node.inputs[kWeight])->data;
  if (const auto* int8 = std::get_if<Int8Data>(&data)) {
    weight.t.assign(int8->t.begin(), int8->t.end());
    weight.scale.assign(int8->scale.begin(), int8->scale.end());
    weight.is_int8 = true;
    return weight;
  }
  const auto& ternary = std::get<TernaryData>(data);
  weight.t.resize(static_cast<size_t>(weight.rows * weight.depth));
  ternary::unpack_codes(ternary.codes, weight.rows, weight.depth, weight.t);
  weight.scale.assign(ternary.scale.begin(), ternary.scale.end());
  weight.scale_neg.assign(ternary.scale_neg.begin(), ternary.scale_neg.end());
  weight.group = ternary.group;
  for (const uint16_t half : ternary.group_scale) weight.scale.push_back(half_to_float(half));
  return weight;
}

// t s as floats: what weights with scales of groups are where the variant has no form for these.
std::vector<float> dequantized(const Weight& weight) {
  std::vector<float> values(weight.t.size());
  const int64_t groups = ceil_div(weight.depth, weight.group);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / weight.depth, k = static_cast<int64_t>(i) % weight.depth;
    values[i] = static_cast<float>(weight.t[i]) * weight.scale[static_cast<size_t>(row * groups + k / weight.group)];
  }
  return values;
}

std::string int8_tensor(Writer& w, const Weight& weight, const Ints& sizes, const std::vector<int8_t>& t) {
  return w.g.tensor(weight.value->name, ElementType::kInt8, sizes, bytes_of(std::span<const int8_t>(t)));
}

// Four a byte, the first in the low bits: two's complement of INT2, or t + `zero`.
template <class Code>
std::string packed_bits(const std::vector<int8_t>& t, Code code) {
  std::string bytes((t.size() + 3) / 4, '\0');
  for (size_t i = 0; i < t.size(); ++i)
    bytes[i / 4] = static_cast<char>(static_cast<uint8_t>(bytes[i / 4]) | code(t[i]) << (2 * (i % 4)));
  return bytes;
}

std::string int2_tensor(Writer& w, const Weight& weight, const Ints& sizes, const std::vector<int8_t>& t) {
  return w.g.tensor(weight.value->name, ElementType::kInt2, sizes, packed_bits(t, [](int8_t v) { return v & 3; }));
}

// Bytes of four codes t + 1, uint8 [..., n], as t, float [..., n, 4].
std::string unpacked(Writer& w, const std::string& bytes) {
  const auto uint8s = [&](const char* name, const std::string& values, const Ints& sizes) {
    return w.g.tensor(name, ElementType::kUint8, sizes, values);
  };
  const std::string apart = w.g.node("Unsqueeze", {bytes, w.g.ints({-1})});
  const std::string shifted = w.g.node("BitShift", {apart, uint8s("shifts", std::string("\0\2\4\6", 4), {4})},
                                       {{"direction", std::string("RIGHT")}});
  const std::string codes = w.g.node("BitwiseAnd", {shifted, uint8s("mask", "\3", {1})});
  const std::string floats = w.g.node("Cast", {codes}, {{"to", static_cast<int64_t>(ElementType::kFloat)}});
  return w.g.node("Sub", {floats, w.g.number(1)});
}

// The last code of each row's last byte is 0 where it stands for no weight.
std::string packed_rows(const std::vector<int8_t>& t, int64_t rows, int64_t depth) {
  std::string bytes;
  for (int64_t row = 0; row < rows; ++row)
    bytes += packed_bits({t.begin() + row * depth, t.begin() + (row + 1) * depth}, [](int8_t v) { return v + 1; });
  return bytes;
}

// t of these sizes as a float tensor of integers, kept as the variant has it.
std::string integers(Writer& w, const Weight& weight, const Ints& sizes, const std::vector<int8_t>& t) {
  if (w.variant == Variant::kFloat) return w.g.floats(weight.value->name, sizes, std::vector<float>(t.begin(), t.end()));
  if (weight.is_int8 || w.variant == Variant::kInt8)
    return w.g.node("DequantizeLinear", {int8_tensor(w, weight, sizes, t), w.g.number(1)});
  if (w.variant == Variant::kInt2) return w.g.node("DequantizeLinear", {int2_tensor(w, weight, sizes, t), w.g.number(1)});
  const auto count = static_cast<int64_t>(t.size());
  const std::string bytes =
      w.g.tensor(weight.value->name, ElementType::kUint8, {ceil_div(count, 4)}, packed_rows(t, 1, count));
  std::string values = unpacked(w, bytes);
  if (count % 4 != 0)
    values = w.g.node("Slice", {w.g.node("Reshape", {values, w.g.ints({-1})}), w.g.ints({0}), w.g.ints({count})});
  return w.g.node("Reshape", {values, w.g.ints(sizes)});
}

struct Activation {
  std::string q;  // integers as floats, or x
  std::string a;  // what a unit of q stands for; empty: 1
};

// q and a of docs/numerics.md; a dynamic scale is over `axes`.
Result<Activation> quantized(Writer& w, const Node& node, const Weight& weight, const std::string& x, const Ints& axes) {
  BITLAB_TRY(const ternary::ActKind kind, ternary::parse_act_kind(node.attribute<std::string>("activation")));
  if (kind == ternary::ActKind::kNone) return Activation{x, ""};
  const auto limit = static_cast<float>(ternary::act_limit(kind));
  std::string inv, a;
  if (is_static(kind)) {
    const float step = std::get<program::FloatData>(w.p.constant(node.inputs[kStep])->data)[0];
    inv = w.g.number(1.0F / step), a = w.g.number(1.0F / (1.0F / step));
  } else {
    const std::string largest = w.g.node("ReduceMax", {w.g.node("Abs", {x}), w.g.ints(axes)});
    inv = w.g.node("Div", {w.g.number(limit), w.g.node("Max", {largest, w.g.number(ternary::kActEpsilon)})});
    a = w.g.node("Reciprocal", {inv});  // no division, which ONNX Runtime would fuse with the product, rounded otherwise
  }
  std::string q = w.g.node("Mul", {x, inv});
  // QuantizeLinear rounds, and would go to -128. Products of int8 by int8 saturate in ONNX Runtime on CPUs without VNNI: weights in int8 meet floats.
  if (w.variant == Variant::kInt8 && !weight.is_int8) {
    q = w.g.node("Clip", {q, w.g.number(-limit), w.g.number(limit)});
    const std::string one = w.g.number(1);
    const std::string zero = w.g.tensor("zero", ElementType::kInt8, {}, std::string(1, '\0'));
    return Activation{w.g.node("DequantizeLinear", {w.g.node("QuantizeLinear", {q, one, zero}), one, zero}), a};
  }
  return Activation{w.g.node("Clip", {w.g.node("Round", {q}), w.g.number(-limit), w.g.number(limit)}), a};
}

// A scale as what is multiplied by: rows stand `inner` dimensions before the last.
std::string scales(Writer& w, const Weight& weight, const std::vector<float>& scale, size_t inner) {
  if (scale.size() == 1) return w.g.number(scale[0]);
  Ints sizes(inner + 1, 1);
  sizes[0] = weight.rows;
  return w.g.floats(weight.value->name + ".scale", sizes, scale);
}

// ((sum a) s) + b, of two scales the difference of two products. sum(t): the tensor of sums with weights t; groups: that with t and its scales.
template <class Sum, class Groups>
std::string scaled_sum(Writer& w, const Node& node, const Weight& weight, const std::string& a, size_t inner, Sum sum,
                       Groups groups) {
  const auto times = [&](const std::string& x, const std::string& y) { return y.empty() ? x : w.g.node("Mul", {x, y}); };
  const auto product = [&](const std::vector<int8_t>& t, const std::vector<float>& scale) {
    const std::string unscaled = times(sum(t), a);
    return times(unscaled, scales(w, weight, scale, inner));
  };
  std::string y;
  if (weight.group != 0) {
    y = times(groups(), a);
  } else if (!weight.scale_neg.empty()) {
    const std::string plus = product(weight.only(1), weight.scale);
    y = w.g.node("Sub", {plus, product(weight.only(-1), weight.scale_neg)});
  } else {
    y = product(weight.t, weight.scale);
  }
  if (!w.has(node, kBias)) return y;
  Ints sizes(inner + 1, 1);
  sizes[0] = weight.rows;
  return w.g.node("Add", {y, w.constant(node.inputs[kBias], sizes)});
}

constexpr int64_t kBlock = 128;  // weights with a scale, of MatMulNBits

// Codes t + 2, whose zero point, 2, is the one that MatMulNBits has unasked. Blocks are padded with it.
std::string matmul_nbits(Writer& w, const Weight& weight, const std::string& q, const std::vector<int8_t>& t) {
  const int64_t block = weight.group != 0 ? weight.group : kBlock, blocks = ceil_div(weight.depth, block);
  std::string bytes;
  for (int64_t row = 0; row < weight.rows; ++row) {
    std::vector<int8_t> padded(t.begin() + row * weight.depth, t.begin() + (row + 1) * weight.depth);
    padded.resize(static_cast<size_t>(blocks * block));
    bytes += packed_bits(padded, [](int8_t v) { return v + 2; });
  }
  const std::string codes = w.g.tensor(weight.value->name, ElementType::kUint8, {weight.rows, blocks, block / 4}, bytes);
  const std::vector<float> scale =
      weight.group != 0 ? weight.scale : std::vector<float>(static_cast<size_t>(weight.rows * blocks), 1);
  constexpr int64_t kFloat32 = 1;  // accuracy_level: activations are not quantized again
  return w.g.nodes(
      "MatMulNBits", {q, codes, w.g.floats(weight.value->name + ".blocks", {weight.rows, blocks}, scale)}, 1,
      {{"K", weight.depth}, {"N", weight.rows}, {"bits", int64_t{2}}, {"block_size", block}, {"accuracy_level", kFloat32}},
      "com.microsoft")[0];
}

// Whether a linear layer is a Gemm, of two dimensions. Of DequantizeLinear and MatMul, unless both sides have the former, ONNX Runtime makes a product that
// quantizes activations again; of Gemm it does not.
bool is_gemm(const Writer& w, const Weight& weight) {
  if (w.variant == Variant::kFloat) return false;
  return w.variant == Variant::kInt2 || weight.is_int8 || (w.variant == Variant::kInt8 && weight.group != 0);
}

// Sums over the last dimension of q.
std::string linear_sums(Writer& w, const Weight& weight, const std::string& q, const std::vector<int8_t>& t) {
  if (w.variant == Variant::kMatMulNBits && !weight.is_int8) return matmul_nbits(w, weight, q, t);
  if (is_gemm(w, weight))
    return w.g.node("Gemm", {q, integers(w, weight, {weight.rows, weight.depth}, t)}, {{"transB", int64_t{1}}});
  const Order across = permuted({weight.rows, weight.depth}, {1, 0});
  return w.g.node("MatMul", {q, integers(w, weight, across.sizes, reordered(std::span<const int8_t>(t), across))});
}

// The same with scales of groups.
std::string linear_groups(Writer& w, const Weight& weight, const std::string& q) {
  if (w.variant == Variant::kMatMulNBits) return matmul_nbits(w, weight, q, weight.t);
  const int64_t groups = ceil_div(weight.depth, weight.group);
  const Ints sizes{weight.rows, weight.depth};
  if (w.variant == Variant::kFloat) {
    const Order across = permuted(sizes, {1, 0});
    const std::vector<float> values = dequantized(weight);
    return w.g.node("MatMul",
                    {q, w.g.floats(weight.value->name, across.sizes, reordered(std::span<const float>(values), across))});
  }
  const std::string codes =
      w.variant == Variant::kInt2 ? int2_tensor(w, weight, sizes, weight.t) : int8_tensor(w, weight, sizes, weight.t);
  const std::string scale = w.g.floats(weight.value->name + ".scale", {weight.rows, groups}, weight.scale);
  const std::string values =
      w.g.node("DequantizeLinear", {codes, scale}, {{"axis", int64_t{1}}, {"block_size", weight.group}});
  return w.g.node("Gemm", {q, values}, {{"transB", int64_t{1}}});
}

Attributes conv_attributes(const Node& node) {
  Ints pads = node.attribute<Sizes>("padding");
  pads.insert(pads.end(), pads.begin(), pads.end());
  Attributes attributes{{"strides", node.attribute<Sizes>("stride")},
                        {"pads", pads},
                        {"dilations", node.attribute<Sizes>("dilation")},
                        {"group", node.attribute<int64_t>("groups")}};
  if (node.attribute<int64_t>("transposed") == 1)
    attributes.emplace_back("output_padding", node.attribute<Sizes>("output_padding"));
  return attributes;
}

const char* conv_type(const Node& node) { return node.attribute<int64_t>("transposed") == 1 ? "ConvTranspose" : "Conv"; }

Order order_of_conv(const Writer& w, const Node& node) {
  return conv_order(shape_at(w.shape(node, kWeight), program::kOnes), node.attribute<int64_t>("groups"),
                    node.attribute<int64_t>("transposed") == 1);
}

}  // namespace

Result<std::string> ternary_product(Writer& w, const Node& node, std::string x, const Shape& from) {
  const Weight weight = weight_of(w, node);
  const bool is_flat = is_gemm(w, weight) && from.size() != 2;
  if (is_flat) x = w.g.node("Reshape", {x, w.g.ints({-1, weight.depth})});
  BITLAB_TRY(const Activation activation, quantized(w, node, weight, x, {-1}));
  const std::string y = scaled_sum(
      w, node, weight, activation.a, 0,
      [&](const std::vector<int8_t>& t) { return linear_sums(w, weight, activation.q, t); },
      [&] { return linear_groups(w, weight, activation.q); });
  if (!is_flat) return y;
  Shape to = from;
  to.back() = weight.rows;
  return w.reshape(y, {program::volume({from.begin(), from.end() - 1}), weight.rows}, to);
}

Result<Names> write_ternary_linear(Writer& w, const Node& node) {
  BITLAB_TRY(std::string y, ternary_product(w, node, w.in(node, 0), w.shape(node, 0)));
  return Names{std::move(y)};
}

Result<Names> write_ternary_conv(Writer& w, const Node& node) {
  const Weight weight = weight_of(w, node);
  if (weight.group != 0 && w.variant != Variant::kFloat)
    return w.refuse(node, "scales of groups in a convolution of the variant float alone");
  const size_t rank = w.shape(node, 0).size();
  Ints axes;
  for (size_t axis = 1; axis < rank; ++axis) axes.push_back(static_cast<int64_t>(axis));
  BITLAB_TRY(const Activation activation, quantized(w, node, weight, w.in(node, 0), axes));
  const Order order = order_of_conv(w, node);
  const auto convolved = [&](const std::string& filters) {
    return w.g.node(conv_type(node), {activation.q, filters}, conv_attributes(node));
  };
  return Names{scaled_sum(
      w, node, weight, activation.a, rank - 2,
      [&](const std::vector<int8_t>& t) {
        return convolved(integers(w, weight, order.sizes, reordered(std::span<const int8_t>(t), order)));
      },
      [&] {
        const std::vector<float> values = dequantized(weight);
        return convolved(w.g.floats(weight.value->name, order.sizes, reordered(std::span<const float>(values), order)));
      })};
}

namespace {

// Rows of t at indices, as floats.
std::string rows_at(Writer& w, const Weight& weight, const std::string& indices) {
  if (w.variant == Variant::kInt8 || weight.is_int8) {
    const std::string rows = w.g.node("Gather", {int8_tensor(w, weight, weight.sizes(), weight.t), indices});
    return w.g.node("Cast", {rows}, {{"to", static_cast<int64_t>(ElementType::kFloat)}});
  }
  if (w.variant != Variant::kMatMulNBits)
    return w.g.node("Gather", {integers(w, weight, weight.sizes(), weight.t), indices});
  const int64_t bytes = ternary::code_row_bytes(weight.depth);
  const std::string table = w.g.tensor(weight.value->name, ElementType::kUint8, {weight.rows, bytes},
                                       packed_rows(weight.t, weight.rows, weight.depth));
  const std::string t = unpacked(w, w.g.node("Gather", {table, indices}));  // [..., bytes, 4]
  const std::string shape =
      w.g.node("Concat", {w.g.node("Shape", {indices}), w.g.ints({4 * bytes})}, {{"axis", int64_t{0}}});
  const std::string rows = w.g.node("Reshape", {t, shape});
  if (weight.depth % 4 == 0) return rows;
  return w.g.node("Slice", {rows, w.g.ints({0}), w.g.ints({weight.depth}), w.g.ints({-1})});
}

// The scale of each of the rows at indices, [..., 1], or of all.
std::string scales_at(Writer& w, const Weight& weight, const std::vector<float>& scale, const std::string& indices) {
  const std::string all = scales(w, weight, scale, 1);
  return scale.size() == 1 ? all : w.g.node("Gather", {all, indices});
}

}  // namespace

Result<Names> write_ternary_embedding(Writer& w, const Node& node) {
  const Weight weight = weight_of(w, node);
  const std::string indices = w.in(node, 0);
  if (weight.group != 0) {
    if (w.variant != Variant::kFloat) return w.refuse(node, "scales of groups in a table of the variant float alone");
    const std::string table = w.g.floats(weight.value->name, weight.sizes(), dequantized(weight));
    return Names{w.g.node("Gather", {table, indices})};
  }
  const std::string t = rows_at(w, weight, indices);
  std::string scale = scales_at(w, weight, weight.scale, indices);
  if (!weight.scale_neg.empty())
    scale =
        w.g.node("Where", {w.g.node("Less", {t, w.g.number(0)}), scales_at(w, weight, weight.scale_neg, indices), scale});
  return Names{w.g.node("Mul", {t, scale})};
}

std::string float_product(Writer& w, const Node& node, const std::string& x) {
  const program::ValueId id = node.inputs[kWeight];
  // A table, too, as of tied embeddings: there once, and transposed when the model is loaded.
  const bool is_table = std::any_of(w.p.nodes.begin(), w.p.nodes.end(), [&](const Node& other) {
    return other.op == Op::embedding && other.inputs[input_of(Op::embedding, "weight")] == id;
  });
  const std::string weight = is_table ? w.g.node("Transpose", {w.in(node, kWeight)}, {{"perm", Ints{1, 0}}})
                                      : w.constant(id, permuted(shape_at(w.shape(node, kWeight), program::kOnes), {1, 0}));
  const std::string y = w.g.node("MatMul", {x, weight});
  return w.has(node, kBias) ? w.g.node("Add", {y, w.in(node, kBias)}) : y;
}

Result<Names> write_linear(Writer& w, const Node& node) { return Names{float_product(w, node, w.in(node, 0))}; }

Result<Names> write_conv(Writer& w, const Node& node) {
  Names inputs{w.in(node, 0), w.constant(node.inputs[kWeight], order_of_conv(w, node))};
  if (w.has(node, kBias)) inputs.push_back(w.in(node, kBias));
  return Names{w.g.node(conv_type(node), inputs, conv_attributes(node))};
}

Result<Names> write_embedding(Writer& w, const Node& node) {
  return Names{w.g.node("Gather", {w.in(node, kWeight), w.in(node, 0)})};
}

}  // namespace bitlab::format::onnx
