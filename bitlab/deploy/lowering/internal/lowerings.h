// The functions of lowerings.def, and what they share.
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>

#include "bitlab/deploy/internal/lowering.h"

namespace bitlab::deploy {

#define BITLAB_LOWERING(name, function) Status function(Lowering& lowering, const Call& call);
#include "bitlab/deploy/lowering/lowerings.def"
#undef BITLAB_LOWERING

using program::Op;

// recurrent.cc: whether an LSTM or GRU is one that nodes compute, and not one of other calls; true for all other operators.
bool is_recurrent_node(const Call& call);

// spectra.cc: of complex values, which are pairs.
Status lower_complex_mul(Lowering& lowering, const Call& call);
Status lower_complex_arithmetic(Lowering& lowering, const Call& call, Op op);
Status lower_complex_matmul(Lowering& lowering, const Call& call);
Status lower_to_complex(Lowering& lowering, const Call& call);
Status lower_complex_unary(Lowering& lowering, const Call& call, Op op);
Status lower_complex_pow(Lowering& lowering, const Call& call);
Status lower_complex_abs(Lowering& lowering, const Call& call);
// formulas.cc: self / other, rounded down or towards zero.
Status lower_rounded_division(Lowering& lowering, const Call& call, bool down);
Status lower_general_pow(Lowering& lowering, const Call& call);  // formulas.cc: any exponent

using program::Sizes;
using program::ValueId;

inline Error unsupported(const Call& call, std::string_view expectation, std::string_view found) {
  const std::string within = call.within.empty() ? "" : ", within=" + call.within;
  return make_error(ErrorCode::kUnsupported, "[capture] {}, got {} (operator={}{})", expectation, found, call.op, within);
}

inline std::string show(at::IntArrayRef sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

inline const at::Tensor& output_of(const Call& call) { return call.outputs.at(0).toTensor(); }

inline int64_t wrap_dim(int64_t dim, int64_t rank) { return dim < 0 ? dim + rank : dim; }

// A dimension of the call's first argument.
inline int64_t dim_of(const Call& call, const std::string& argument = "dim") {
  return wrap_dim(call.argument(argument).toInt(), call.argument("self").toTensor().dim());
}

// What an argument is, for messages: "2", "Float [3, 4]", "none".
std::string describe(const c10::IValue& value);

// An argument that LibTorch fills in where it is left out.
inline bool given(const Call& call, const std::string& argument) { return !call.argument(argument).isNone(); }

// What becomes of the tensor that a view was made of, with the value `base`, where `part` is written into `view`, an output of the call; null for an
// operator that no such function is known of (writes.cc).
using ViewFunction = Result<ValueId> (*)(Lowering& lowering, const Call& call, const at::Tensor& view, ValueId base,
                                         ValueId part);
ViewFunction find_view_function(std::string_view op);

// Where a part begins that a call takes along a dimension of its first argument, as `argument`, "start" or "index", says: from the end, below 0, where that is
// what stays the same (movement.cc).
Result<int64_t> place_of(Lowering& lowering, const Call& call, int64_t dim, const char* argument);

// 0, 1, ..., as many as a size says.
inline Result<ValueId> counted_to(Lowering& lowering, const program::Dim& size) {
  return lowering.node(Op::positions, {}, {{"size", program::Shape{size}}, {"continues", int64_t{0}}});
}

// x broadcast to a shape; x itself where it has that.
inline Result<ValueId> expanded(Lowering& lowering, ValueId x, const program::Shape& shape) {
  if (lowering.shape(x) == shape) return x;
  return lowering.node(Op::expand, {x}, {{"shape", shape}});
}

// x with sizes of one in front until it has that many dimensions; x itself where it has them.
inline Result<ValueId> with_rank(Lowering& lowering, ValueId x, size_t rank) {
  program::Shape shape = lowering.shape(x);
  if (shape.size() < rank) shape.insert(shape.begin(), rank - shape.size(), 1);
  return lowering.reshape(x, shape);
}

// An argument with a number for each channel of [C, spatial...], constant or computed; kNone where it is left out (layers.cc).
Result<ValueId> by_channel(Lowering& lowering, const Call& call, const std::string& argument, size_t spatial);

// The outputs behind the first ones, which nobody but LibTorch itself reads.
inline void lose_from(Lowering& lowering, const Call& call, size_t first) {
  for (size_t i = first; i < call.outputs.size(); ++i) lowering.lose(call.outputs[i].toTensor());
}

// first, first + 1, ...
inline Sizes counted(size_t count, size_t first = 0) {
  Sizes numbers(count);
  std::iota(numbers.begin(), numbers.end(), static_cast<int64_t>(first));
  return numbers;
}

// The order that undoes one.
inline Sizes inverse_of(const Sizes& order) {
  Sizes back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return back;
}

// x with its dimensions in another order; x itself where that is the one they have.
inline Result<ValueId> permuted(Lowering& lowering, ValueId x, const Sizes& order) {
  if (std::is_sorted(order.begin(), order.end())) return x;
  return lowering.node(Op::permute, {x}, {{"dims", order}});
}

// windows.cc: a convolution of x [n, c, sizes...], of fixed sizes, whose weight is computed.
Status computed_conv(Lowering& lowering, const Call& call, ValueId x, bool is_transposed);
// windows.cc: a pool's second output, where its largest values are, where something reads it. x: [n, c, sizes...]
struct PoolWindow {
  Sizes kernel, stride, padding, dilation;
};
Status finish_pool_places(Lowering& lowering, const Call& call, ValueId x, const PoolWindow& pool);
Status finish_adaptive_places(Lowering& lowering, const Call& call, ValueId x, const Sizes& grid);

// a b of [..., m, k] and [..., k, n], whose sizes in front broadcast (layers.cc).
Result<ValueId> multiplied(Lowering& lowering, ValueId a, ValueId b);

// Of index and index_put (indexing.cc): the tensor that indexes a dimension, its value, which may be a constant, the dimensions that have one, and whether they
// are arange(batch) and a computed place for each sample.
const at::Tensor& index_of(const Call& call, size_t dim);
Result<ValueId> index_value(Lowering& lowering, const Call& call, size_t dim);
std::vector<size_t> indexed_dims(const Call& call);
bool indexes_samples(Lowering& lowering, const Call& call);
// x with values written where index would read them, by int64 indices of several dimensions.
Result<ValueId> put_at_places(Lowering& lowering, const Call& call, ValueId x, ValueId values, const std::string& mode);

// indices.cc: where `count` windows of a dimension lie, each `step` behind the one before, with `dilation` from one place to the next: [count, taps].
Result<ValueId> window_places(Lowering& lowering, const program::Dim& count, int64_t taps, int64_t step,
                              int64_t dilation = 1);
// The values there in place of x's dimension: [..., count, taps, ...].
Result<ValueId> frames_of(Lowering& lowering, ValueId x, int64_t dim, const program::Dim& count, int64_t taps, int64_t step,
                          int64_t dilation = 1);
// indices.cc: a view function (above) of diagonals.
Result<ValueId> put_on_diagonal(Lowering& lowering, const Call& call, const at::Tensor& view, ValueId base, ValueId part);

// x with its last values along `dim` repeated, or with zeros behind it, so that there are as many as `size`, or with as many of them (padding.cc).
Result<ValueId> repeated_to(Lowering& lowering, const Call& call, ValueId x, int64_t dim, const program::Dim& size);
Result<ValueId> zeros_to(Lowering& lowering, const Call& call, ValueId x, int64_t dim, const program::Dim& size);

// x with zeros in front of and behind its dimensions, the last one first.
Result<ValueId> zeros_around(Lowering& lowering, const Call& call, ValueId x, const Sizes& sides);

// The values of x along `dim`, from `start` on.
inline Result<ValueId> slice_of(Lowering& lowering, ValueId x, int64_t dim, int64_t start, program::Dim length) {
  return lowering.node(Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", program::Shape{length}}});
}

// A node of x and a number.
Result<ValueId> with_number(Lowering& lowering, Op op, ValueId x, double number);
// x times a number; x itself where that is 1.
Result<ValueId> scaled(Lowering& lowering, ValueId x, double number);

}  // namespace bitlab::deploy
