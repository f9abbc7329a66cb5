// Readers of rotary embeddings, and of what ONNX Runtime's optimizer joins (com.microsoft).
#include <algorithm>
#include <limits>

#include "bitlab/format/onnx/internal/expansion.h"
#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// A table [positions, half] where the tokens are, as [batch or 1, 1, tokens, half].
Result<ValueId> turns(Reader& r, size_t table, std::optional<ValueId> places, const Dim& tokens) {
  BITLAB_TRY(ValueId id, r.value(table));
  if (places) {
    if (r.shape_of(id).size() != 2) return r.corrupt("a table of positions, got {}", r.show(r.shape_of(id)));
    BITLAB_TRY(id, r.emit(Op::take, {id, *places}, {{"dim", int64_t{0}}}));
  }
  Shape shape = r.shape_of(id);
  if (shape.size() != 3 || shape[1] != tokens)
    return r.corrupt("a table [batch, {}, half], got {}", r.show({tokens}), r.show(shape));
  shape.insert(shape.begin() + 1, 1);
  return r.reshape(id, shape);
}

struct Rotation {
  ValueId x = program::kNone;  // [batch, heads, tokens, size]
  ValueId cos = program::kNone, sin = program::kNone;
  int64_t turned = 0;  // values of a head that are turned
  bool interleaved = false;
};

Result<ValueId> rotated(Reader& r, const Rotation& rotation) {
  const Shape shape = r.shape_of(rotation.x);
  const int64_t half = rotation.turned / 2, size = shape[3].factor;
  const auto part = [&](int64_t start, int64_t length, int64_t step) {
    return Term(r, r.slice(rotation.x, 3, start, length, step));
  };
  const bool pairs = rotation.interleaved;
  const Term a = part(0, half, pairs ? 2 : 1), b = pairs ? part(1, half, 2) : part(half, half, 1);
  const Term cos(r, rotation.cos), sin(r, rotation.sin);
  BITLAB_TRY(ValueId real, (a * cos - b * sin).id());
  BITLAB_TRY(ValueId imaginary, (a * sin + b * cos).id());
  if (pairs) {
    Shape apart = r.shape_of(real);
    apart.emplace_back(1);
    BITLAB_TRY(real, r.reshape(real, apart));
    BITLAB_TRY(imaginary, r.reshape(imaginary, apart));
  }
  BITLAB_TRY(ValueId y, r.emit(Op::cat, {real, imaginary}, {{"dim", int64_t{pairs ? 4 : 3}}}));
  BITLAB_TRY(y, r.reshape(y, {shape[0], shape[1], shape[2], rotation.turned}));
  if (rotation.turned == size) return y;
  BITLAB_TRY(const ValueId rest, r.slice(rotation.x, 3, rotation.turned, size - rotation.turned));
  return r.emit(Op::cat, {y, rest}, {{"dim", int64_t{3}}});
}

// x [batch, tokens, heads size] or [batch, heads, tokens, size]; tables and places of the tokens where the operator has them.
Result<Operands> rotary(Reader& r, size_t cos, size_t sin, std::optional<size_t> position_input) {
  const Shape x = r.shape(0);
  const int64_t heads = r.integer("num_heads", 0);
  Rotation rotation{program::kNone, program::kNone, program::kNone, r.integer("rotary_embedding_dim", 0),
                    r.integer("interleaved", 0) != 0};
  BITLAB_TRY(rotation.x, r.activation(0));
  if (x.size() == 3) {
    const int64_t count = heads > 0 ? heads : x[2].factor / std::max<int64_t>(2 * r.shape(cos).back().factor, 1);
    BITLAB_TRY(rotation.x, in_heads(r, rotation.x, count));
  }
  const Shape shape = r.shape_of(rotation.x);
  if (shape.size() != 4 || !shape[3].is_number()) return r.refuse("x of 3 or 4 sizes, got {}", r.show(x));
  if (rotation.turned == 0) rotation.turned = shape[3].factor;
  if (rotation.turned < 2 || rotation.turned % 2 != 0 || rotation.turned > shape[3].factor)
    return r.corrupt("an even part of heads of {}, got {}", shape[3].factor, rotation.turned);
  std::optional<ValueId> places;
  if (position_input) {
    BITLAB_TRY(ValueId id, r.activation(*position_input));
    BITLAB_TRY(id, r.cast(id, DType::kInt64));
    if (r.shape_of(id).size() == 1) {  // where the first token is
      if (r.shape_of(id)[0] != Dim(1)) return r.corrupt("one position, got {}", r.show(r.shape_of(id)));
      BITLAB_TRY(const ValueId steps, r.positions(shape[2]));
      BITLAB_TRY(id, r.emit(Op::add, {id, steps}));
      BITLAB_TRY(id, r.reshape(id, {1, shape[2]}));
    }
    places = id;
  }
  BITLAB_TRY(rotation.cos, turns(r, cos, places, shape[2]));
  BITLAB_TRY(rotation.sin, turns(r, sin, places, shape[2]));
  const Dim half = rotation.turned / 2;
  if (r.shape_of(rotation.cos)[3] != half || r.shape_of(rotation.sin)[3] != half)
    return r.corrupt("tables of {} values, got {}", rotation.turned / 2, r.show(r.shape_of(rotation.cos)));
  BITLAB_TRY(ValueId y, rotated(r, rotation));
  return single(x.size() == 4 ? Result<ValueId>(y) : out_of_heads(r, y));
}

}  // namespace

Result<ValueId> turned_by_tables(Reader& r, ValueId x, ValueId places, size_t cos, size_t sin, bool interleaved) {
  const Shape shape = r.shape_of(x), table = r.shape(cos);
  const bool fits = table.size() == 2 && table[1].is_number() && shape.size() == 4 && shape[3].is_number() &&
                    table[1].factor >= 1 && table[1].factor <= shape[3].factor / 2 && r.shape(sin) == table;
  if (!fits)
    return r.corrupt("tables [places, half] for {}, got {} and {}", r.show(shape), r.show(table), r.show(r.shape(sin)));
  Rotation rotation{x, program::kNone, program::kNone, 2 * table[1].factor, interleaved};
  BITLAB_TRY(rotation.cos, turns(r, cos, places, shape[2]));
  BITLAB_TRY(rotation.sin, turns(r, sin, places, shape[2]));
  return rotated(r, rotation);
}

Result<Operands> read_rotary(Reader& r) { return rotary(r, 1, 2, r.has(3) ? std::optional(size_t{3}) : std::nullopt); }
Result<Operands> read_fused_rotary(Reader& r) { return rotary(r, 2, 3, 1); }

// x, with a bias or not, through one function.
Result<Operands> read_bias_gelu(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const std::string_view type = r.node().type;
  const Term x = r.has(1) ? input(r, 0) + input(r, 1) : computed_input(r, 0);
  if (type == "QuickGelu") return single(x * (x * double{r.number("alpha", 1.702F)}).of(Op::sigmoid));
  return single(x.of(type == "FastGelu" ? Op::gelu_tanh : Op::gelu));
}

// norm(x + skip + bias), and the sum.
Result<Operands> read_skip_norm(Reader& r) {
  const bool is_rms = r.node().type == "SkipSimplifiedLayerNormalization";
  const size_t bias = is_rms ? 3 : 4;
  Expansion e(r);
  std::string_view sum = e.node("Add", {e.input(0), e.input(1)});
  if (r.has(bias)) sum = e.node("Add", {sum, e.input(bias)});
  std::vector<std::string_view> inputs{sum, e.input(2)};
  if (!is_rms && r.has(3)) inputs.push_back(e.input(3));
  const std::string_view y = e.node(is_rms ? "SimplifiedLayerNormalization" : "LayerNormalization", inputs,
                                    {with_integer("axis", -1), with_number("epsilon", r.number("epsilon", 1e-12F))});
  return e.results({y, {}, {}, sum});
}

// The sum of a word's, a place's and a segment's row, normalized; how many words a sample has; the sum.
Result<Operands> read_embed_norm(Reader& r) {
  enum : size_t { kWords, kSegments, kTable, kPlaceTable, kSegmentTable, kGamma, kBeta, kMask, kPlaces };
  const Shape words = r.shape(kWords);
  if (words.size() != 2) return r.corrupt("words [batch, tokens], got {}", r.show(words));
  Expansion e(r);
  std::string_view places = e.input(kPlaces);
  if (places.empty()) {
    const Shape table = r.shape(kPlaceTable);
    if (table.size() == 2 && table[0].is_number()) r.bound(words[1], table[0].factor);
    BITLAB_TRY(const ValueId id, r.positions(words[1]));
    places = e.given(id);
  }
  std::string_view sum = e.node(
      "Add", {e.node("Gather", {e.input(kTable), e.input(kWords)}), e.node("Gather", {e.input(kPlaceTable), places})});
  if (r.has(kSegments)) sum = e.node("Add", {sum, e.node("Gather", {e.input(kSegmentTable), e.input(kSegments)})});
  const std::string_view y = e.node("LayerNormalization", {sum, e.input(kGamma), e.input(kBeta)},
                                    {with_integer("axis", -1), with_number("epsilon", r.number("epsilon", 1e-12F))});
  std::string_view count;
  if (r.has(kMask)) {
    const auto cast_to = [&](std::string_view x, ElementType type) {
      return e.node("Cast", {x}, {with_integer("to", static_cast<int64_t>(type))});
    };
    const std::string_view axes = e.given(tensor_of({1}));
    count = cast_to(e.node("ReduceSum", {cast_to(e.input(kMask), ElementType::kInt64), axes}, {with_integer("keepdims", 0)}),
                    ElementType::kInt32);
  }
  return e.results({y, count, sum});
}

// alpha a b, of matrices that may be turned.
Result<Operands> read_fused_matmul(Reader& r) {
  if (r.integer("transBatchA", 0) != 0 || r.integer("transBatchB", 0) != 0)
    return r.refuse("batches in front, got transBatchA or transBatchB");
  Expansion e(r);
  std::vector<std::string_view> sides;
  for (const auto& [i, key] : {std::pair{size_t{0}, "transA"}, std::pair{size_t{1}, "transB"}}) {
    std::string_view side = e.input(i);
    const auto rank = static_cast<int64_t>(r.shape(i).size());
    if (r.integer(key, 0) != 0 && rank > 1) {
      ModelAttribute perm;
      perm.name = "perm";
      for (int64_t d = 0; d < rank; ++d) perm.integers.push_back(d < rank - 2 ? d : 2 * rank - 3 - d);
      side = e.node("Transpose", {side}, {perm});
    }
    sides.push_back(side);
  }
  std::string_view y = e.node("MatMul", sides);
  if (const float alpha = r.number("alpha", 1); alpha != 1) {
    BITLAB_TRY(const Tensor factor, r.folding.of_numbers(ElementType::kFloat, {}, [&](int64_t) { return alpha; }));
    y = e.node("Mul", {y, e.given(factor)});
  }
  return e.results({y});
}

// A layer and what is computed of its outputs.
Result<Operands> read_fused_layer(Reader& r) {
  const std::string activation = r.text("activation", "");
  const auto* parameters = r.node().find("activation_params");
  Expansion e(r);
  std::vector<std::string_view> inputs;
  for (size_t i = 0; i < 3; ++i) inputs.push_back(e.input(i));
  std::string_view y = e.node(r.node().type.substr(5), inputs, r.node().attributes);
  if (r.has(3)) y = e.node("Add", {y, e.input(3)});
  if (activation.empty()) return e.results({y});
  const auto parameter = [&](size_t i, float otherwise) {
    return parameters != nullptr && i < parameters->numbers.size() ? parameters->numbers[i] : otherwise;
  };
  if (activation == "LeakyRelu")
    return e.results({e.node(activation, {y}, {with_number("alpha", parameter(0, r.number("activation_alpha", 0.01F)))})});
  if (activation == "HardSigmoid")
    return e.results(
        {e.node(activation, {y}, {with_number("alpha", parameter(0, 0.2F)), with_number("beta", parameter(1, 0.5F))})});
  if (activation == "Clip") {
    constexpr float kMost = std::numeric_limits<float>::max();
    return e.results(
        {e.node(activation, {y}, {with_number("min", parameter(0, -kMost)), with_number("max", parameter(1, kMost))})});
  }
  if (activation != "Relu" && activation != "Sigmoid" && activation != "Tanh")
    return r.refuse("an activation of Relu, LeakyRelu, Sigmoid, Tanh, HardSigmoid, Clip, got {}", activation);
  return e.results({e.node(activation, {y})});
}

}  // namespace bitlab::format::onnx
