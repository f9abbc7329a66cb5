// Arithmetic of sizes.
#include "bitlab/format/onnx/internal/read_sizes.h"

#include <algorithm>
#include <cmath>

namespace bitlab::format::onnx {

using program::Dim;

namespace {

// Of sizes, which are 0 at least, what ONNX cuts off is what a floor does.
std::optional<Dim> divided_down(Reader& r, const Dim& a, const Dim& b) {
  if (const auto whole = divided(a, b)) return whole;
  if (b.is_number()) r.prefer_multiple(a, b.factor);
  return b.is_number() && b.factor >= 1 && !a.is_number() ? quotient(a, 0, b.factor) : std::nullopt;
}

// 0 to b - 1. Numbers count on from b where they are below 0; where b might not be larger than a number, it must.
std::optional<Dim> rest_of(Reader& r, const Dim& a, const Dim& b) {
  if (divided(a, b)) return Dim(0);
  if (b.is_number()) r.prefer_multiple(a, b.factor);
  if (!a.is_number() || b.is_number() || uses(b, 0)) return std::nullopt;  // a batch may be of any size
  r.at_least(b, a.factor < 0 ? -a.factor : a.factor + 1);
  return a.factor < 0 ? sum(b, a) : a;
}

std::optional<Dim> power_of_size(const Dim& a, const Dim& b) {
  constexpr int64_t kMost = 4;
  if (!b.is_number() || b.factor < 1 || b.factor > kMost) return std::nullopt;
  Dim power = a;
  for (int64_t i = 1; i < b.factor; ++i) {
    int64_t product = 0;
    if (__builtin_mul_overflow(power.factor, a.factor, &product) || product > program::kMaxElements) return std::nullopt;
    power = power * a;
  }
  return power;
}

std::optional<Dim> combined(Reader& r, const Dim& a, const Dim& b) {
  const std::string_view type = r.node().type;
  if (!counts_places(a.factor) || !counts_places(b.factor)) return std::nullopt;
  if (type == "Add" || type == "Sub") return sum(a, b, type == "Add" ? 1 : -1);
  if (type == "Mul") {
    int64_t product = 0;
    if (__builtin_mul_overflow(a.factor, b.factor, &product)) return std::nullopt;
    return product == 0 ? Dim(0) : a * b;
  }
  if (type == "Min" || type == "Max") {
    if (r.is_within(a, 0, b)) return type == "Min" ? a : b;
    if (r.is_within(b, 0, a)) return type == "Min" ? b : a;
    if (type == "Min" && a.is_number() != b.is_number() &&
        r.may_bound(a.is_number() ? b : a, (a.is_number() ? a : b).factor))
      return a.is_number() ? b : a;
    return std::nullopt;
  }
  if (type == "Pow") return power_of_size(a, b);
  if (type == "Mod" && r.integer("fmod", 0) == 0) return rest_of(r, a, b);
  return type == "Div" ? divided_down(r, a, b) : std::nullopt;
}

// What a comparison of sizes is in every run; nothing where that differs.
std::optional<bool> always(const Reader& r, const Dim& a, const Dim& b) {
  const std::string_view type = r.node().type;
  const auto decided = [&](const Dim& low, const Dim& high, int64_t apart) -> std::optional<bool> {
    if (r.is_within(low, apart, high)) return true;
    return r.is_within(high, 1 - apart, low) ? std::optional(false) : std::nullopt;
  };
  if (type == "Less" || type == "LessOrEqual") return decided(a, b, type == "Less" ? 1 : 0);
  if (type == "Greater" || type == "GreaterOrEqual") return decided(b, a, type == "Greater" ? 1 : 0);
  if (a == b) return true;
  const bool differs = r.is_within(a, 1, b) || r.is_within(b, 1, a);
  return type == "Equal" && differs ? std::optional(false) : std::nullopt;
}

// What two inputs of sizes have at each place; a list of one meets every place of the other.
struct Pairs {
  std::vector<std::pair<Dim, Dim>> pairs;
  bool is_scalar;
};
std::optional<Pairs> paired_inputs(const Reader& r) {
  const auto a = r.sizes(0), b = r.sizes(1);
  if (!a || !b) return std::nullopt;
  const size_t count = std::max(a->values.size(), b->values.size());
  if ((a->values.size() != count && a->values.size() != 1) || (b->values.size() != count && b->values.size() != 1))
    return std::nullopt;
  Pairs both{{}, a->is_scalar && b->is_scalar};
  for (size_t i = 0; i < count; ++i)
    both.pairs.emplace_back(a->values[a->values.size() == 1 ? 0 : i], b->values[b->values.size() == 1 ? 0 : i]);
  return both;
}

}  // namespace

std::optional<Operand> of_sizes(Reader& r) {
  const auto both = paired_inputs(r);
  if (!both || r.node().inputs.size() != 2) return std::nullopt;
  SizeList result{{}, both->is_scalar};
  for (const auto& [a, b] : both->pairs) {
    const auto one = combined(r, a, b);
    if (!one) return std::nullopt;
    result.values.push_back(*one);
  }
  return operand_of(std::move(result));
}

std::optional<Tensor> compared_sizes(const Reader& r) {
  const auto both = paired_inputs(r);
  if (!both) return std::nullopt;
  Ints results;
  for (const auto& [a, b] : both->pairs) {
    const auto one = always(r, a, b);
    if (!one) return std::nullopt;
    results.push_back(*one ? 1 : 0);
  }
  return tensor_of(results, both->is_scalar);
}

}  // namespace bitlab::format::onnx
