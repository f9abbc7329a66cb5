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

// Bags that offsets begin, which differ from run to run: each row's bag is the last one that begins in front of it.
Status bags_by_offsets(Lowering& lowering, const Call& call) {
  constexpr std::array kModes{"add", "add", "maximum"};
  const int64_t mode = call.argument("mode").toInt();
  BITLAB_TRY(ValueId indices, lowering.operand_as(call, "indices", at::kLong));
  BITLAB_TRY(const program::Shape result, lowering.shape_of_output(call));
  const program::Dim rows = lowering.shape(indices)[0], bags = result[0], width = result[1];
  if (uses(rows, 0) || uses(bags, 0))
    return unsupported(call,
                       "bags of one size, or numbers of rows and of offsets that have names of their own (dynamic_axes) and "
                       "not the batch's",
                       lowering.show({rows, bags}));
  BITLAB_TRY(ValueId begins, lowering.operand_as(call, "offsets", at::kLong));
  BITLAB_TRY(begins, slice_of(lowering, begins, 0, 0, bags));
  BITLAB_TRY(begins, lowering.reshape(begins, {1, bags}));
  BITLAB_TRY(ValueId bag, counted_to(lowering, rows));
  BITLAB_TRY(bag, lowering.reshape(bag, {rows, 1}));
  BITLAB_TRY(bag, lowering.node(Op::less_equal, {begins, bag}));
  BITLAB_TRY(bag, lowering.cast(bag, at::kLong));
  BITLAB_TRY(bag, lowering.node(Op::sum, {bag}));
  BITLAB_TRY(bag, with_number(lowering, Op::add, bag, -1));
  BITLAB_TRY(bag, lowering.reshape(bag, {rows, 1}));
  BITLAB_TRY(const ValueId weight, lowering.floats(call, "weight"));
  BITLAB_TRY(ValueId x, lowering.node(Op::embedding, {indices, weight}));
  if (is_given(call, "per_sample_weights")) {
    BITLAB_TRY(ValueId by, lowering.operand(call, "per_sample_weights"));
    BITLAB_TRY(by, lowering.reshape(by, {rows, 1}));
    BITLAB_TRY(x, lowering.node(Op::mul, {x, by}));
  }
  const auto number = [&](float value) { return lowering.number(value, at::kFloat); };
  const float least = mode == 2 ? -std::numeric_limits<float>::infinity() : 0;
  BITLAB_TRY(ValueId counted, expanded(lowering, number(1), {rows, 1}));
  if (is_given(call, "padding_idx")) {
    const int64_t padding = wrap_dim(call.argument("padding_idx").toInt(), call.tensor("weight").size(0));
    BITLAB_TRY(ValueId is_padding, lowering.node(Op::equal, {indices, lowering.number(padding, at::kLong)}));
    BITLAB_TRY(is_padding, lowering.reshape(is_padding, {rows, 1}));
    BITLAB_TRY(x, lowering.node(Op::where, {is_padding, number(least), x}));
    BITLAB_TRY(counted, lowering.node(Op::where, {is_padding, number(0), number(1)}));
  }
  const auto in_bags = [&](ValueId values, float first, const program::Dim& columns, const char* how) -> Result<ValueId> {
    BITLAB_TRY(const ValueId begin, expanded(lowering, number(first), {bags, columns}));
    BITLAB_TRY(const ValueId where, expanded(lowering, bag, {rows, columns}));
    return lowering.node(Op::scatter, {begin, where, values}, {{"dim", int64_t{0}}, {"mode", std::string(how)}});
  };
  BITLAB_TRY(ValueId y, in_bags(x, least, width, kModes.at(static_cast<size_t>(mode))));
  if (mode != 0) {
    BITLAB_TRY(ValueId kept, in_bags(counted, 0, 1, "add"));
    if (mode == 1) {
      BITLAB_TRY(kept, with_number(lowering, Op::maximum, kept, 1));
      BITLAB_TRY(y, lowering.node(Op::div, {y, kept}));
    } else {
      BITLAB_TRY(const ValueId is_empty, lowering.node(Op::equal, {kept, number(0)}));
      BITLAB_TRY(y, lowering.node(Op::where, {is_empty, number(0), y}));
    }
  }
  lose_from(lowering, call, 1);
  return lowering.finish(call, y);
}

}  // namespace

// Rows of a table, then the sum, the mean or the maximum of each bag's, without those of the padding.
Status lower_embedding_bag(Lowering& lowering, const Call& call) {
  constexpr std::array kModes{Op::sum, Op::mean, Op::max};
  const int64_t size = bag_size(call), twin_size = bag_size(lowering.twin());
  if (size == 0 || twin_size == 0 || lowering.is_activation(call.tensor("offsets"))) return bags_by_offsets(lowering, call);
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
