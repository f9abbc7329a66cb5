// Rows of tables by bags: torch.nn.EmbeddingBag.
#include <algorithm>
#include <array>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// The rows in each bag, where all bags have as many; else 0.
int64_t bag_size(const Call& call) {
  at::Tensor offsets = call.argument("offsets").toTensor().to(at::kLong);
  if (call.argument("include_last_offset").toBool()) offsets = offsets.slice(0, 0, -1);  // that of a bag behind the last
  const int64_t rows = call.argument("indices").toTensor().numel(), bags = offsets.numel();
  if (bags == 0 || rows == 0 || rows % bags != 0) return 0;
  return offsets.equal(at::arange(0, rows, rows / bags)) ? rows / bags : 0;
}

// Of an argument that not every overload has.
bool is_given(const Call& call, std::string_view name) {
  const auto found = std::ranges::find(call.arguments, name, &Argument::name);
  if (found == call.arguments.end()) return false;
  const c10::IValue& value = found->value;
  return value.isTensor() ? value.toTensor().defined() : value.isInt() ? value.toInt() >= 0 : !value.isNone();
}

}  // namespace

// Rows of a table, then the sum, the mean or the maximum of each bag's, without those of the padding.
Status lower_embedding_bag(Lowering& lowering, const Call& call) {
  constexpr std::array kModes{Op::sum, Op::mean, Op::max};
  const int64_t size = bag_size(call), twin_size = bag_size(lowering.twin());
  if (size == 0 || twin_size == 0)
    return unsupported(call, "bags of one size, as indices of two dimensions have", describe(call.argument("offsets")));
  BITLAB_TRY(ValueId x, lowering.activation(call, "indices"));
  BITLAB_TRY(x, lowering.cast(x, at::kLong));
  BITLAB_TRY(program::Shape shape, lowering.shape_of(call, [](const Call& c) {
    return Sizes{output_of(c).size(0), bag_size(c)};
  }));
  BITLAB_TRY(const ValueId indices, lowering.reshape(x, shape));
  BITLAB_TRY(const ValueId weight, lowering.floats(call, "weight"));
  BITLAB_TRY(x, lowering.node(Op::embedding, {indices, weight}));
  shape.emplace_back(1);
  if (is_given(call, "per_sample_weights")) {
    BITLAB_TRY(ValueId by, lowering.operand(call, "per_sample_weights"));
    BITLAB_TRY(by, lowering.reshape(by, shape));
    BITLAB_TRY(x, lowering.node(Op::mul, {x, by}));
  }
  const Op mode = kModes.at(static_cast<size_t>(call.argument("mode").toInt()));
  const auto number = [&](float value) { return lowering.number(value, at::kFloat); };
  ValueId is_padding = program::kNone, is_empty = program::kNone, kept = program::kNone;
  if (is_given(call, "padding_idx")) {
    const int64_t padding = wrap_dim(call.argument("padding_idx").toInt(), call.tensor("weight").size(0));
    BITLAB_TRY(is_padding, lowering.node(Op::equal, {indices, lowering.number(padding, at::kLong)}));
    BITLAB_TRY(const ValueId counted, lowering.node(Op::where, {is_padding, number(0), number(1)}));
    BITLAB_TRY(kept, lowering.node(Op::sum, {counted}));
    BITLAB_TRY(kept, lowering.reshape(kept, {shape[0], 1}));
    BITLAB_TRY(is_empty, lowering.node(Op::equal, {kept, number(0)}));
    BITLAB_TRY(is_padding, lowering.reshape(is_padding, shape));
    const float instead = mode == Op::max ? std::numeric_limits<float>::lowest() : 0;
    BITLAB_TRY(x, lowering.node(Op::where, {is_padding, number(instead), x}));
  }
  BITLAB_TRY(x, permuted(lowering, x, {0, 2, 1}));
  const bool is_mean = mode == Op::mean && kept != program::kNone;
  BITLAB_TRY(x, lowering.node(is_mean ? Op::sum : mode, {x}));
  if (is_mean) {
    BITLAB_TRY(kept, with_number(lowering, Op::maximum, kept, 1));
    BITLAB_TRY(x, lowering.node(Op::div, {x, kept}));
  } else if (mode == Op::max && kept != program::kNone) {
    BITLAB_TRY(x, lowering.node(Op::where, {is_empty, number(0), x}));
  }
  BITLAB_TRY(const program::Shape result, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, result));
  lose_from(lowering, call, 1);
  return lowering.finish(call, x);
}

}  // namespace bitlab::deploy
