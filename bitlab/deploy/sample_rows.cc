// Indices that count through the rows of all samples, one sample behind the other: `places + arange(batch) * rows`, for a tensor of [batch * rows, ...]. What a
// sample gets is a row of its own, so that the place within the sample is what a program computes, and gathers by.
#include <algorithm>
#include <iterator>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// The number of rows of each sample that an addend [batch, 1, ...] counts by; 0 where it is another.
int64_t rows_counted_by(const at::Tensor& addend, int64_t batch) {
  if (addend.scalar_type() != at::kLong || addend.dim() < 1 || addend.size(0) != batch || addend.numel() != batch ||
      batch < 2)
    return 0;
  const at::Tensor counts = addend.reshape({-1});
  const int64_t rows = counts[1].item<int64_t>();
  return rows >= 1 && at::equal(counts, at::arange(batch) * rows) ? rows : 0;
}

// Operators that leave rows in their order.
bool keeps_order(const Call& call) {
  constexpr std::string_view kNames[] = {"aten::view",      "aten::reshape",  "aten::_unsafe_view", "aten::flatten",
                                         "aten::unsqueeze", "aten::squeeze",  "aten::clone",        "aten::contiguous",
                                         "aten::expand",    "aten::alias",    "aten::detach",       "aten::to",
                                         "aten::_to_copy",  "aten::unflatten"};
  return std::find(std::begin(kNames), std::end(kNames), call.function()) != std::end(kNames);
}

// The tensor that indexes the first dimension, and no other one; undefined for other calls.
at::Tensor index_of_rows(const Call& call) {
  if (call.op == "aten::index_select") return dim_of(call) == 0 ? call.tensor("index") : at::Tensor();
  if (call.op != "aten::index.Tensor" || indexed_dims(call) != std::vector<size_t>{0}) return {};
  return index_of(call, 0);
}

}  // namespace

Result<bool> Lowering::lower_rows_of_samples(const Call& call) {
  if (call.op == "aten::add.Tensor") return count_rows(call);
  if (rows_.empty()) return false;
  if (const at::Tensor index = index_of_rows(call); index.defined() && rows_.contains(identity(index))) {
    BITLAB_RETURN_IF_ERROR(take_rows(call, rows_.at(identity(index))));
    return true;
  }
  const bool is_first = !call.arguments.empty() && call.arguments[0].value.isTensor();
  const auto found = is_first ? rows_.find(identity(call.arguments[0].value.toTensor())) : rows_.end();
  if (found == rows_.end() || !keeps_order(call)) return false;
  const void *from = identity(call.arguments[0].value.toTensor()), *to = identity(output_of(call));
  const RowsOfSamples rows = found->second;
  if (from == to) return true;
  values_[from] = rows.value;
  const Status status = find_lowering(call.op) == nullptr ? Status() : find_lowering(call.op)(*this, call);
  values_.erase(from);
  BITLAB_RETURN_IF_ERROR(status);
  const auto made = values_.extract(to);
  if (made.empty()) return false;
  const program::Shape& now = shape(made.mapped());
  if (now.empty() || !uses(now[0], 0) || uses(program::Shape(now.begin() + 1, now.end()), 0))
    return unsupported(call, "rows that stay behind their samples", show(now));
  rows_[to] = {made.mapped(), rows.rows};
  lose(output_of(call));
  return true;
}

// Whether a call adds as many rows as the samples in front have to places.
Result<bool> Lowering::count_rows(const Call& call) {
  const bool is_second = is_activation(call.tensor("self")) && !is_activation(call.tensor("other"));
  const bool is_first = is_activation(call.tensor("other")) && !is_activation(call.tensor("self"));
  if (is_first == is_second || output_of(call).scalar_type() != at::kLong ||
      call.argument("alpha").toScalar().toDouble() != 1)
    return false;
  const std::string places = is_second ? "self" : "other", addend = is_second ? "other" : "self";
  const auto rows_at = [&](const Call& c, const program::SymbolSizes& sizes) {
    const at::Tensor tensor = c.tensor(addend);
    return tensor.defined() && tensor.dim() == output_of(c).dim() ? rows_counted_by(tensor, sizes[0]) : 0;
  };
  if (rows_at(call, recordings_->sizes) == 0 || rows_at(*twin_, recordings_->twin_sizes) == 0) return false;
  for (size_t i = 0; i < others_.size(); ++i)
    if (rows_at(*others_[i], recordings_->other_sizes[i]) == 0) return false;
  BITLAB_TRY(const program::Dim rows,
             dim_of(call, [&](const Call& c) { return c.tensor(addend).reshape({-1})[1].item<int64_t>(); }));
  BITLAB_TRY(ValueId value, activation(call, places));
  BITLAB_TRY(const program::Shape whole, shape_of_output(call));
  BITLAB_TRY(value, expanded(*this, value, whole));
  rows_[identity(output_of(call))] = {value, rows};
  lose(output_of(call));
  return true;
}

// x [batch * rows, ...] at [batch * places]: each sample's own.
Status Lowering::take_rows(const Call& call, const RowsOfSamples& by) {
  BITLAB_TRY(ValueId x, operand(call, "self"));
  const program::Shape all = shape(x), wanted = shape(by.value);
  const program::Shape rest(all.begin() + 1, all.end());
  const std::optional<program::Dim> places = divided(program::volume(wanted), program::kBatch);
  if (all[0] != program::kBatch * by.rows || uses(rest, 0) || !places)
    return unsupported(call, fmt::format("rows of {} for each sample", show({by.rows})), show(all));
  const program::Dim values = program::volume(rest);
  BITLAB_TRY(x, reshape(x, {program::kBatch, by.rows, values}));
  BITLAB_TRY(ValueId indices, reshape(by.value, {program::kBatch, *places, 1}));
  BITLAB_TRY(indices, expanded(*this, indices, {program::kBatch, *places, values}));
  BITLAB_TRY(x, node(Op::gather, {x, indices}, {{"dim", int64_t{1}}}));
  program::Shape result = wanted;
  result.insert(result.end(), rest.begin(), rest.end());
  BITLAB_TRY(x, reshape(x, result));
  return finish(call, x);
}

}  // namespace bitlab::deploy
