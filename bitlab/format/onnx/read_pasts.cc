// Inputs of decoders that become states, and those that follow from how many positions these hold.
#include <algorithm>

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

Result<Dim> Reader::size_of_tokens() {
  for (const ModelPort& port : model_.inputs) {
    if (port.name != guess_.pasts->tokens || !whole_.operands.contains(port.name)) continue;
    const Shape shape = shape_of(std::get<ValueId>(whole_.operands[port.name]));
    const auto symbol = single_symbol(shape[1]);
    if (symbol && *symbol != 0) return shape[1];
  }
  return make_error(ErrorCode::kUnsupported, "[onnx] tokens of any number where there are pasts, got an input '{}'",
                    guess_.pasts->tokens);
}

// A mask that hides nothing, and places that go on behind the past.
Result<ValueId> Reader::input_that_follows(const ModelPort& port, DType dtype, bool is_mask) {
  const auto all = program::sum(tokens_, guess_.past);
  Shape shape;
  for (size_t axis = 0; axis + 1 < port.shape.size(); ++axis) {
    BITLAB_TRY(shape.emplace_back(), size_of_port(port, axis));
  }
  shape.push_back(is_mask ? *all : tokens_);
  if (is_mask) {
    BITLAB_TRY(const ValueId one, number(1, dtype));
    BITLAB_TRY(const ValueId ones, emit(Op::expand, {one}, {{"shape", shape}}));
    ones_.insert(ones);
    return ones;
  }
  BITLAB_TRY(ValueId places, positions(tokens_));
  BITLAB_TRY(places, with(Op::add, places, static_cast<double>(guess_.past)));
  BITLAB_TRY(places, cast(places, dtype));
  return expand(places, shape);
}

// Pasts are the last inputs, so that sizes that only they have are the last symbols.
Status Reader::add_pasts() {
  const Pasts& pasts = *guess_.pasts;
  const auto is_in = [](const std::vector<std::string_view>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  BITLAB_TRY(tokens_, size_of_tokens());
  for (const ModelPort& port : model_.inputs) {
    const auto dtype = dtype_of(port.type);
    const bool is_mask = is_in(pasts.masks, port.name);
    if (is_in(pasts.switches, port.name)) {
      const Ints sizes(port.shape.size(), 1);
      BITLAB_TRY(whole_.operands[port.name], folding.of_integers(ElementType::kBool, sizes, [](int64_t) { return 1; }));
    } else if ((is_mask || is_in(pasts.positions, port.name)) && dtype) {
      BITLAB_TRY(whole_.operands[port.name], input_that_follows(port, *dtype, is_mask));
    }
  }
  for (const ModelPort& port : model_.inputs) {
    const Past* past = pasts.find(port.name);
    if (past == nullptr) continue;
    const auto dtype = dtype_of(port.type);
    if (!dtype || !is_float(port.type))
      return make_error(ErrorCode::kUnsupported, "[onnx] pasts of floats, got {} (value={})", name_of(port.type), port.name);
    ModelPort sized = port;
    sized.shape[past->axis] = guess_.past;
    BITLAB_TRY(const ValueId id, input_of(sized, *dtype));
    pasts_.insert(id);
    whole_.operands[port.name] = id;
  }
  return {};
}

Result<ValueId> Reader::continued(ValueId past, ValueId next, size_t axis) {
  if (pasts_.contains(past) && !continued_.try_emplace(past, next).second && continued_[past] != next)
    return refuse("a past that one value continues, got '{}' and two", of(past).name);
  const Shape &x = shape_of(past), &y = shape_of(next);
  if (pasts_.contains(past) && x.size() == y.size() && axis < x.size()) {
    Shape like = y;
    like[axis] = x[axis];
    bool is_open = x != like;
    for (size_t i = 0; is_open && i < x.size(); ++i) is_open = x[i] == like[i] || single_symbol(x[i]).value_or(0) != 0;
    if (is_open) {
      past = builder_.input(unique(of(past).name), like);
      pasts_.insert(past);
    }
  }
  return emit(Op::cat, {past, next}, {{"dim", static_cast<int64_t>(axis)}});
}

// What is moved, repeated or cut of ones are ones.
bool Reader::are_ones(Op op, const std::vector<ValueId>& inputs) const {
  constexpr Op kMoves[] = {Op::reshape, Op::expand, Op::permute, Op::slice, Op::take, Op::cast};
  return !inputs.empty() && ones_.contains(inputs[0]) &&
         std::find(std::begin(kMoves), std::end(kMoves), op) != std::end(kMoves);
}

// Ones at any places, without the places, which may count over samples.
Result<ValueId> Reader::taken_of_ones(ValueId ones, ValueId places, int64_t dim) {
  Shape shape = shape_of(ones);
  const Shape& indices = shape_of(places);
  shape.insert(shape.erase(shape.begin() + dim), indices.begin(), indices.end());
  BITLAB_TRY(const ValueId one, number(1, of(ones).dtype));
  BITLAB_TRY(const ValueId taken, emit(Op::expand, {one}, {{"shape", shape}}));
  ones_.insert(taken);
  return taken;
}

}  // namespace bitlab::format::onnx
