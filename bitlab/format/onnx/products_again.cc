// Ternary products, found again in what the writer made of them.
#include <algorithm>
#include <array>
#include <cmath>

#include "bitlab/base/internal/half.h"
#include "bitlab/format/onnx/internal/rewrite.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::format::onnx {
namespace {

using program::input_of;
using program::Node;
using program::Op;
using program::Shape;
using program::ValueId;
using ternary::ActKind;

constexpr size_t kProductX = 0, kProductWeight = input_of(Op::linear, "weight"), kProductBias = input_of(Op::linear, "bias");

// A quantizer: q of x, and the tensor a that a unit of q stands for. Static ones have inv.
struct Quantizer {
  ActKind kind = ActKind::kNone;
  ValueId x = program::kNone, inv = program::kNone;
  float step = 0;  // of a static one
};

// x with 1 / step == inv, as the runtime has it; nothing where float32 has none.
std::optional<float> step_of(float inv) {
  const float near = 1.0F / inv;
  for (const float step : {near, std::nextafter(near, 0.0F), std::nextafter(near, 2 * near)})
    if (1.0F / step == inv && step >= ternary::kLeastStep) return step;
  return std::nullopt;
}

// The value behind maximum(., -limit) and minimum(., limit).
std::optional<std::pair<ValueId, float>> clipped(const Rewriting& r, ValueId id) {
  const Node* upper = r.maker(id, Op::minimum);
  const auto limit = upper == nullptr ? std::nullopt : r.floats(upper->inputs[1]);
  if (!limit || limit->size() != 1) return std::nullopt;
  const Node* lower = r.maker(upper->inputs[0], Op::maximum);
  if (lower == nullptr) return std::nullopt;
  return std::pair{lower->inputs[0], (*limit)[0]};
}

bool is_clip_at(const Rewriting& r, ValueId id, float low) {
  const Node* upper = r.maker(id, Op::minimum);
  return upper != nullptr && r.is_number(r.maker(upper->inputs[0], Op::maximum)->inputs[1], low);
}

// round, then clip; or clip, round, and the clip of QuantizeLinear.
std::optional<std::pair<ValueId, float>> rounded(const Rewriting& r, ValueId q) {
  const auto outer = clipped(r, q);
  const Node* round = outer ? r.maker(outer->first, Op::round) : nullptr;
  if (round == nullptr) return std::nullopt;
  if (is_clip_at(r, q, -outer->second)) return std::pair{round->inputs[0], outer->second};
  constexpr float kLeastInt8 = -128, kMostInt8 = 127;
  const auto inner = clipped(r, round->inputs[0]);
  if (!inner || outer->second != kMostInt8 || !is_clip_at(r, q, kLeastInt8) ||
      !is_clip_at(r, round->inputs[0], -inner->second))
    return std::nullopt;
  return inner;
}

// Whether inv is limit / max(max |x|, epsilon), over all dimensions but those in front that `samples` says.
bool is_dynamic(const Rewriting& r, ValueId inv, ValueId x, float limit, bool over_samples) {
  const Node* ratio = r.maker(inv, Op::div);
  const Node* floor =
      ratio == nullptr || !r.is_number(ratio->inputs[0], limit) ? nullptr : r.maker(ratio->inputs[1], Op::maximum);
  if (floor == nullptr || !r.is_number(floor->inputs[1], ternary::kActEpsilon)) return false;
  const Shape& shape = r.p.value(x).shape;
  Shape columns = shape;
  for (size_t i = over_samples ? 1 : shape.size() - 1; i < shape.size(); ++i) columns[i] = 1;
  if (r.p.value(floor->inputs[0]).shape != columns) return false;
  const Node* column = r.maker(floor->inputs[0], Op::reshape);
  const Node* most = column == nullptr ? nullptr : r.maker(column->inputs[0], Op::max);
  if (most == nullptr) return false;
  const Node* row = r.maker(most->inputs[0], Op::reshape);
  const Node* size = r.maker(row == nullptr ? most->inputs[0] : row->inputs[0], Op::abs);
  return size != nullptr && size->inputs[0] == x;
}

// What q quantizes; where it is no quantizer, q itself.
Quantizer quantizer_of(const Rewriting& r, ValueId q, bool over_samples) {
  const Quantizer none{ActKind::kNone, q};
  const auto scaled = rounded(r, q);
  const Node* product = scaled ? r.maker(scaled->first, Op::mul) : nullptr;
  if (product == nullptr) return none;
  const float limit = scaled->second;
  const bool is_int4 = limit == static_cast<float>(ternary::act_limit(ActKind::kInt4));
  if (!is_int4 && limit != static_cast<float>(ternary::act_limit(ActKind::kInt8))) return none;
  const ValueId x = product->inputs[0], inv = product->inputs[1];
  if (const auto number = r.floats(inv); number && number->size() == 1 && (*number)[0] > 0) {
    const auto step = step_of((*number)[0]);
    if (step) return {is_int4 ? ActKind::kInt4Static : ActKind::kInt8Static, x, inv, *step};
  }
  if (is_dynamic(r, inv, x, limit, over_samples)) return {is_int4 ? ActKind::kInt4 : ActKind::kInt8, x, inv};
  return none;
}

// A product and what is multiplied behind it.
struct Product {
  const Node* node = nullptr;  // linear or conv
  Quantizer quantizer;
  program::FloatData weight;
  std::vector<float> scale;         // [1] or [rows]; empty: none
  ValueId result = program::kNone;  // behind the multiplications
};

// Whether `id` is 1 / inv.
bool is_unit(const Rewriting& r, ValueId id, const Quantizer& quantizer) {
  if (is_static(quantizer.kind)) {
    const auto number = r.floats(quantizer.inv);
    return r.is_number(id, 1.0F / (*number)[0]);
  }
  const Node* reciprocal = r.maker(id, Op::div);
  return reciprocal != nullptr && r.is_number(reciprocal->inputs[0], 1) && reciprocal->inputs[1] == quantizer.inv;
}

// Floats beside an image's channels or a matrix's columns: of one number, or one a row.
std::optional<std::vector<float>> by_row(const Rewriting& r, ValueId id, int64_t rows, size_t rank, bool is_conv) {
  const auto data = r.floats(id);
  if (!data) return std::nullopt;
  if (data->size() == 1) return std::vector<float>{(*data)[0]};
  const Shape& shape = r.p.value(id).shape;
  const size_t at = is_conv ? 1 : rank - 1, lead = rank - std::min(rank, shape.size());
  if (static_cast<int64_t>(data->size()) != rows || at < lead || shape[at - lead] != program::Dim(rows)) return std::nullopt;
  return std::vector<float>(data->begin(), data->end());
}

std::optional<Product> product_of(const Rewriting& r, const Node& node) {
  const bool is_conv = node.op == Op::conv;
  if ((node.op != Op::linear && !is_conv) || node.inputs[kProductBias] != program::kNone) return std::nullopt;
  const auto weight = r.floats(node.inputs[kProductWeight]);
  if (!weight) return std::nullopt;
  Product product{&node, quantizer_of(r, node.inputs[kProductX], is_conv), *weight, {}, node.output()};
  if (product.quantizer.kind != ActKind::kNone) {
    const Node* unit = r.reader(product.result, Op::mul);
    if (unit == nullptr || !is_unit(r, Rewriting::other(*unit, product.result), product.quantizer)) return std::nullopt;
    product.result = unit->output();
  }
  const Shape& w = r.p.value(node.inputs[kProductWeight]).shape;
  if (const Node* scaled = r.reader(product.result, Op::mul)) {
    const size_t rank = r.p.value(product.result).shape.size();
    const auto scale = by_row(r, Rewriting::other(*scaled, product.result), w[0].factor, rank, is_conv);
    if (scale) {
      product.scale = *scale;
      product.result = scaled->output();
    }
  }
  return product;
}

// --- weights

float largest(program::FloatData values) {
  float most = 0;
  for (const float v : values) most = std::max(most, std::fabs(v));
  return most;
}

std::optional<std::vector<int8_t>> whole(program::FloatData values) {
  constexpr float kMost = 127;
  std::vector<int8_t> t;
  for (const float v : values) {
    if (!(std::fabs(v) <= kMost) || v != std::nearbyint(v)) return std::nullopt;
    t.push_back(static_cast<int8_t>(v));
  }
  return t;
}

struct IntegerWeight {
  std::vector<int8_t> t;
  program::TernaryScales scales;
  bool is_int8 = false;
};

// Weights that are t s, s of each `group` values of a row, in float16.
std::optional<IntegerWeight> grouped(program::FloatData values, int64_t depth, int64_t group) {
  IntegerWeight w;
  w.scales.group = group;
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t start = 0; start < count;) {
    const int64_t size = std::min(group, depth - start % depth);
    const auto part = values.subspan(static_cast<size_t>(start), static_cast<size_t>(size));
    const float s = largest(part);
    if (half_to_float(float_to_half(s)) != s) return std::nullopt;
    for (const float v : part) {
      if (v != 0 && std::fabs(v) != s) return std::nullopt;
      w.t.push_back(static_cast<int8_t>(v > 0 ? 1 : v < 0 ? -1 : 0));
    }
    w.scales.group_scale.push_back(float_to_half(s));
    start += size;
  }
  return w;
}

std::optional<IntegerWeight> weight_of(const Product& product, const Shape& shape) {
  const bool is_quantized = product.quantizer.kind != ActKind::kNone;
  if (const auto t = whole(product.weight); t && !product.scale.empty()) {
    const bool is_int8 = largest(product.weight) > 1;
    if (is_int8 && (!is_quantized || program::weight_depth(shape) > ternary::kMaxInt8Depth)) return std::nullopt;
    return IntegerWeight{*t, product.scale, is_int8};
  }
  if (!is_quantized || !product.scale.empty()) return std::nullopt;
  for (const int64_t group : {256, 128, 64})
    if (shape.size() == 2 || shape.back().factor % group == 0)
      if (auto found = grouped(product.weight, program::weight_depth(shape), group)) return found;
  return std::nullopt;
}

ValueId add_weight(Rewriting& r, ValueId floats, const IntegerWeight& w) {
  const std::vector<int64_t> shape = shape_at(r.p.value(floats).shape, program::kOnes);
  const std::string name = r.p.value(floats).name;
  r.p.values[static_cast<size_t>(floats)].name = name + "/float";
  struct Owned {
    std::vector<int8_t> t;
    std::vector<uint8_t> codes;
    program::TernaryScales scales;
  };
  auto owned = std::make_shared<Owned>(Owned{w.t, {}, w.scales});
  const program::TernaryScales& s = owned->scales;
  if (w.is_int8) {
    const program::Int8Data view{owned->t, s.scale};
    return r.add_constant(name, shape, program::Storage::kInt8, {program::kNone, view, owned});
  }
  const int64_t rows = shape[0], depth = static_cast<int64_t>(w.t.size()) / rows;
  owned->codes.resize(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(w.t, rows, depth, owned->codes);
  const program::TernaryData view{owned->codes, s.scale, s.scale_neg, s.group_scale, s.group};
  return r.add_constant(name, shape, program::Storage::kTernary, {program::kNone, view, owned});
}

// --- nodes

// The layer in the place of what made `result`, with the bias that is added behind it.
void place(Rewriting& r, const Product& product, const IntegerWeight& weight, ValueId result) {
  const Node old = *product.node;
  const bool is_conv = old.op == Op::conv;
  const ValueId floats = old.inputs[kProductWeight];
  const int64_t rows = r.p.value(floats).shape[0].factor;
  ValueId bias = program::kNone;
  if (const Node* added = r.reader(result, Op::add)) {
    const ValueId beside = Rewriting::other(*added, result);
    const auto values = by_row(r, beside, rows, r.p.value(result).shape.size(), is_conv);
    if (values && static_cast<int64_t>(values->size()) == rows) {
      bias = beside;
      if (r.p.value(beside).shape != Shape{rows}) {
        const std::string name = r.p.value(beside).name;
        r.p.values[static_cast<size_t>(beside)].name = name + "/rows";
        bias = r.add_floats(name, {rows}, *values);
      }
      result = added->output();
    }
  }
  Node node{is_conv ? Op::ternary_conv : Op::ternary_linear, "", {}, {result}, old.attributes};
  ValueId step = program::kNone;
  if (is_static(product.quantizer.kind))
    step = r.add_floats(r.p.value(floats).name + ".act_scale", {1}, {product.quantizer.step});
  node.inputs = {product.quantizer.x, add_weight(r, floats, weight), bias, step};
  node.attributes["activation"] = std::string(name(product.quantizer.kind));
  for (const Node& n : r.p.nodes)
    if (n.output() == result) node.name = n.name;
  r.replace(std::move(node));
}

// The difference of two products of the same q: weights of +1 with one scale, of -1 with another.
bool place_two_scales(Rewriting& r, const Product& plus) {
  const Node* difference = r.reader(plus.result, Op::sub);
  if (difference == nullptr || difference->inputs[0] != plus.result) return false;
  const Node* scaled = r.maker(difference->inputs[1], Op::mul);
  if (scaled == nullptr) return false;
  // The product that the second side comes from: through one or two multiplications.
  const Node* from = nullptr;
  for (ValueId id = scaled->inputs[0]; from == nullptr && id != program::kNone;) {
    for (const Op op : {Op::linear, Op::conv})
      if (const Node* made = r.maker(id, op)) from = made;
    const Node* behind = r.maker(id, Op::mul);
    id = behind == nullptr ? program::kNone : behind->inputs[0];
  }
  const auto minus = from == nullptr ? std::nullopt : product_of(r, *from);
  if (!minus || minus->result != difference->inputs[1] || minus->node->inputs[kProductX] != plus.node->inputs[kProductX])
    return false;
  const auto above = whole(plus.weight), below = whole(minus->weight);
  if (!above || !below || above->size() != below->size() || plus.scale.size() != minus->scale.size() || plus.scale.empty())
    return false;
  IntegerWeight weight{*above, {}, false};
  for (size_t i = 0; i < weight.t.size(); ++i) {
    if ((*above)[i] < 0 || (*above)[i] > 1 || (*below)[i] < 0 || (*below)[i] > 1 || (*above)[i] + (*below)[i] > 1)
      return false;
    weight.t[i] = static_cast<int8_t>((*above)[i] - (*below)[i]);
  }
  weight.scales.scale = plus.scale, weight.scales.scale_neg = minus->scale;
  place(r, plus, weight, difference->output());
  return true;
}

// Rows of a table of t at indices, times a number or the rows' own.
void recover_table(Rewriting& r, const Node& node) {
  const auto values = r.floats(node.inputs[1]);
  const auto t = values ? whole(*values) : std::nullopt;
  const Node* scaled = r.reader(node.output(), Op::mul);
  if (!t || scaled == nullptr) return;
  const ValueId beside = Rewriting::other(*scaled, node.output());
  const Node* of_rows = r.maker(beside, Op::embedding);
  const auto scale = r.floats(of_rows != nullptr && of_rows->inputs[0] == node.inputs[0] ? of_rows->inputs[1] : beside);
  const auto rows = static_cast<size_t>(r.p.value(node.inputs[1]).shape[0].factor);
  if (!scale || scale->size() != (of_rows != nullptr ? rows : 1)) return;
  const IntegerWeight weight{*t, std::vector<float>(scale->begin(), scale->end()), largest(*values) > 1};
  Node table{Op::ternary_embedding, scaled->name, {node.inputs[0], program::kNone}, scaled->outputs, {}};
  table.inputs[1] = add_weight(r, node.inputs[1], weight);
  r.replace(std::move(table));
}

// Rows that were made flat for a product and are not behind it: linear layers take them as they are.
void unflatten(Rewriting& r, const Node& node) {
  const Node* from = r.maker(node.inputs[0], Op::reshape);
  const Node* to = r.reader(node.output(), Op::reshape);
  if (from == nullptr || to == nullptr) return;
  Shape expected = r.p.value(from->inputs[0]).shape;
  const Shape& flat = r.p.value(node.output()).shape;
  if (expected.empty() || expected.back() != r.p.value(node.inputs[0]).shape.back()) return;
  expected.back() = flat.back();
  if (r.p.value(to->output()).shape != expected) return;
  Node deep = node;
  deep.inputs[0] = from->inputs[0];
  deep.outputs = to->outputs;
  deep.name = to->name;
  r.replace(std::move(deep));
}

}  // namespace

void recover_products(Rewriting& r) {
  const size_t count = r.p.nodes.size();
  for (size_t i = 0; i < count; ++i) {
    const Node& node = r.p.nodes[i];
    if (node.op == Op::embedding) recover_table(r, node);
    const auto product = product_of(r, node);
    if (!product || place_two_scales(r, *product)) continue;
    const Shape shape = r.p.value(node.inputs[kProductWeight]).shape;
    if (const auto weight = weight_of(*product, shape)) place(r, *product, *weight, product->result);
  }
  for (size_t i = 0; i < count; ++i)
    if (r.p.nodes[i].op == Op::ternary_linear) unflatten(r, r.p.nodes[i]);
}

}  // namespace bitlab::format::onnx
