// Indices that are computed of ranges, and what they are for.
#include "bitlab/format/onnx/internal/places.h"

#include <algorithm>

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr size_t kMostOnTheWay = 16;  // between a range and what is made of it

Shape without_ones(Shape shape) {
  std::erase(shape, Dim(1));
  return shape;
}

// Where the dimension `at` of x is in y, which has the same sizes but for those of 1.
std::optional<size_t> moved(const Shape& x, const Shape& y, size_t at) {
  if (x[at] == Dim(1) || without_ones(x) != without_ones(y)) return std::nullopt;
  const size_t ordinal = without_ones({x.begin(), x.begin() + static_cast<int64_t>(at)}).size();
  for (size_t to = 0, seen = 0; to < y.size(); ++to) {
    if (y[to] == Dim(1)) continue;
    if (seen++ == ordinal) return to;
  }
  return std::nullopt;
}

// The values from `id` back to a range of places, over nodes of which one input alone is no constant; empty where there is none.
std::vector<ValueId> way_to_range(const Reader& r, ValueId id, bool computes) {
  std::vector<ValueId> way{id};
  while (way.size() < kMostOnTheWay) {
    const program::Node* node = r.maker(way.back());
    if (node == nullptr) return {};
    if (node->op == Op::positions) return node->attribute<int64_t>("continues") == 0 ? way : std::vector<ValueId>();
    const bool is_view = node->op == Op::reshape || node->op == Op::expand;
    const bool is_linear = computes && (node->op == Op::add || node->op == Op::mul);
    if (!is_view && !is_linear) return {};
    const bool is_turned = is_linear && r.integers_of(node->inputs[0]) != nullptr;
    if (is_linear && r.integers_of(node->inputs[is_turned ? 0 : 1]) == nullptr) return {};
    way.push_back(node->inputs[is_turned ? 1 : 0]);
  }
  return {};
}

// The same dimension one step on.
std::optional<size_t> step_on(const Reader& r, ValueId from, ValueId to, size_t at) {
  const Shape &x = r.shape_of(from), &y = r.shape_of(to);
  if (r.maker(to)->op == Op::reshape) return moved(x, y, at);
  at += y.size() - x.size();
  return at < y.size() && y[at] == x[at - (y.size() - x.size())] ? std::optional(at) : std::nullopt;
}

}  // namespace

std::optional<size_t> counted_along(const Reader& r, ValueId id) {
  const std::vector<ValueId> way = way_to_range(r, id, false);
  if (way.empty() || r.shape_of(way.back())[0] == Dim(1)) return std::nullopt;
  std::optional<size_t> at = 0;
  for (size_t i = way.size() - 1; at && i-- > 0;) at = step_on(r, way[i + 1], way[i], *at);
  return at;
}

Result<std::optional<Tensor>> within_samples(Reader& r, ValueId id, const Dim& samples, int64_t n) {
  const std::optional<Tensor> none;
  const std::vector<ValueId> way = way_to_range(r, id, true);
  if (way.empty() || r.shape_of(way.back())[0] != samples) return none;
  int64_t stride = 1;
  Tensor rest = tensor_of({0}, true);
  std::optional<size_t> at = 0;
  for (size_t i = way.size() - 1; i-- > 0;) {
    const program::Node& node = *r.maker(way[i]);
    if (node.op == Op::reshape && !rest.sizes.empty()) return none;
    at = step_on(r, way[i + 1], way[i], *at);
    if (!at) return none;
    if (node.op != Op::add && node.op != Op::mul) continue;
    const Tensor& by = *r.integers_of(node.inputs[node.inputs[0] == way[i + 1] ? 1 : 0]);
    const size_t front = r.shape_of(way[i]).size() - by.sizes.size();
    if (*at >= front && by.sizes[*at - front] != 1) return none;  // another one for each sample
    const bool is_product = node.op == Op::mul;
    if (is_product && (by.count() != 1 || __builtin_mul_overflow(stride, by.integer(0), &stride))) return none;
    BITLAB_TRY(rest, r.folding.binary(rest, by, ElementType::kInt64, nullptr, [&](int64_t a, int64_t b) {
      const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
      return static_cast<int64_t>(is_product ? x * y : x + y);
    }));
  }
  Shape shape = r.shape_of(id);
  if (at != size_t{0} || stride != n) return none;
  shape.erase(shape.begin());
  if (!program::is_fixed(shape)) return none;
  if (rest.sizes.size() == shape.size() + 1) rest.sizes.erase(rest.sizes.begin());
  BITLAB_TRY(const Tensor all, r.folding.broadcast(rest, shape_at(shape, program::kOnes)));
  for (int64_t i = 0; i < all.count(); ++i)
    if (all.integer(i) < 0 || all.integer(i) >= n) return none;
  return std::optional(all);
}

}  // namespace bitlab::format::onnx
