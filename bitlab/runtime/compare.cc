#include "bitlab/runtime/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/session.h"

namespace bitlab::runtime {
namespace {

using program::Constant;
using program::Node;
using program::Program;
using program::Value;
using program::ValueId;

struct Weights {
  std::vector<const Constant*> integers, floats;
};

// Constants of nodes in the order in which they are read, each once.
Weights weights_of(const Program& p) {
  Weights weights;
  std::set<ValueId> seen;
  for (const Node& node : p.nodes)
    for (const ValueId id : node.inputs) {
      if (id == program::kNone || p.value(id).kind != program::ValueKind::kConstant || !seen.insert(id).second) continue;
      const Constant* constant = p.constant(id);
      const bool is_integer = std::holds_alternative<program::TernaryData>(constant->data) ||
                              std::holds_alternative<program::Int8Data>(constant->data);
      if (is_integer) weights.integers.push_back(constant);
      const bool is_float = p.value(id).dtype == program::DType::kFloat32 && !is_integer;
      if (is_float && elements(p.value(id).shape, program::kOnes) > 1) weights.floats.push_back(constant);
    }
  return weights;
}

template <class T>
bool same(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

template <class T>
std::string first_place(std::string_view what, std::span<const T> a, std::span<const T> b) {
  if (a.size() != b.size()) return fmt::format("{} {} and {}", a.size(), what, b.size());
  const auto [left, right] = std::mismatch(a.begin(), a.end(), b.begin());
  const auto place = left - a.begin();
  if (left == a.end()) return fmt::format("{} of other bits", what);
  return fmt::format("{} {} and {} at {}", what, *left, *right, place);
}

// How two weights of integers differ; empty where they do not.
std::string integer_difference(const Constant& a, const Constant& b) {
  const auto *t = std::get_if<program::TernaryData>(&a.data), *u = std::get_if<program::TernaryData>(&b.data);
  const auto *i = std::get_if<program::Int8Data>(&a.data), *j = std::get_if<program::Int8Data>(&b.data);
  if ((t == nullptr) != (u == nullptr)) return "ternary and int8";
  if (t == nullptr) {
    if (!same(i->t, j->t)) return first_place("weights", i->t, j->t);
    return same(i->scale, j->scale) ? "" : first_place("scales", i->scale, j->scale);
  }
  if (!same(t->codes, u->codes)) return first_place("codes", t->codes, u->codes);
  if (!same(t->scale, u->scale)) return first_place("scales", t->scale, u->scale);
  if (!same(t->scale_neg, u->scale_neg)) return first_place("negative scales", t->scale_neg, u->scale_neg);
  if (t->group != u->group) return fmt::format("groups of {} and {}", t->group, u->group);
  return same(t->group_scale, u->group_scale) ? "" : first_place("scales", t->group_scale, u->group_scale);
}

float float_at(const Program& p, const Constant& constant, size_t i) {
  if (const auto* data = std::get_if<program::FloatData>(&constant.data)) return (*data)[i];
  return program::widened(std::get<program::HalfData>(constant.data).bits[i], p.value(constant.value).storage);
}

double largest_difference(const Program& a, const Constant& left, const Program& b, const Constant& right) {
  double largest = 0;
  const auto count = static_cast<size_t>(elements(a.value(left.value).shape, program::kOnes));
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::fabs(double{float_at(a, left, i)} - double{float_at(b, right, i)}));
  return largest;
}

// One pair; `f` says how data of one shape differs.
template <class F>
std::string pair_difference(const Program& a, const Program& b, const std::vector<const Constant*>& left,
                            const std::vector<const Constant*>& right, F f) {
  std::string first;
  for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    const bool is_pair = i < left.size() && i < right.size();
    const Value& value = i < left.size() ? a.value(left[i]->value) : b.value(right[i]->value);
    std::string how = "one file alone";
    if (is_pair) {
      const Value& other = b.value(right[i]->value);
      how = value.shape == other.shape ? f(*left[i], *right[i])
                                       : fmt::format("{} and {}", a.show(value.shape), b.show(other.shape));
    }
    if (first.empty() && !how.empty()) first = fmt::format("'{}': {}", value.name, how);
  }
  return first;
}

void compare_weights(const Program& a, const Program& b, Comparison& result) {
  const Weights left = weights_of(a), right = weights_of(b);
  result.weight = pair_difference(a, b, left.integers, right.integers, integer_difference);
  const std::string floats =
      pair_difference(a, b, left.floats, right.floats, [&](const Constant& x, const Constant& y) -> std::string {
        const double largest = largest_difference(a, x, b, y);
        result.weights = std::max(result.weights, largest);
        return largest == 0 ? "" : fmt::format("differs by up to {:.3g}", largest);
      });
  if (result.weight.empty()) result.weight = floats;
}

std::string node_difference(const Program& a, const Program& b) {
  for (size_t i = 0; i < std::max(a.nodes.size(), b.nodes.size()); ++i) {
    const Node *left = i < a.nodes.size() ? &a.nodes[i] : nullptr, *right = i < b.nodes.size() ? &b.nodes[i] : nullptr;
    if (left != nullptr && right != nullptr && left->op == right->op && left->attributes == right->attributes) continue;
    const auto text = [](const Node* node) {
      return node == nullptr ? "none" : fmt::format("'{}' ({})", node->name, program::name(node->op));
    };
    return fmt::format("{} and {}", text(left), text(right));
  }
  return "";
}

bool has_same_types(const std::vector<program::Port>& a, const std::vector<program::Port>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const program::Port& x, const program::Port& y) { return x.type == y.type; });
}

OutputDifference output_difference(const std::string& name, const TensorView& a, const TensorView& b) {
  OutputDifference d{name};
  d.count = 1;
  for (const int64_t size : a.shape) d.count *= size;
  const auto bytes = static_cast<size_t>(program::size_of(a.dtype)), count = static_cast<size_t>(d.count);
  std::vector<float> left(count), right(count);
  cast(a.dtype, a.data, program::DType::kFloat32, left.data(), d.count);
  cast(b.dtype, b.data, program::DType::kFloat32, right.data(), d.count);
  for (size_t i = 0; i < count; ++i) {
    d.magnitude = std::max(d.magnitude, std::fabs(double{left[i]}));
    if (std::memcmp(a.as<uint8_t>() + i * bytes, b.as<uint8_t>() + i * bytes, bytes) == 0) continue;
    ++d.different;
    const double difference = std::fabs(double{left[i]} - double{right[i]});
    d.largest = std::max(d.largest, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
  return d;
}

Status compare_runs(const Program& a, const Program& b, const CompareOptions& options, Comparison& result) {
  BITLAB_TRY(const program::SymbolSizes sizes, sizes_of(a, options.samples, options.sizes));
  const auto inputs = random_inputs(a, sizes, options.seed);
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<std::span<const TensorView>> outputs;
  for (const Program* p : {&a, &b}) {
    std::vector<TensorView> views;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Value& v = a.value(a.inputs[i]);
      views.emplace_back(shape_at(v.shape, sizes), v.dtype, inputs[i].data());
    }
    BITLAB_TRY(auto model, Model::create(*p));
    BITLAB_TRY(sessions.emplace_back(), Session::create(std::move(model)));
    BITLAB_TRY(outputs.emplace_back(), sessions.back()->run(views));
  }
  for (size_t i = 0; i < outputs[0].size(); ++i) {
    if (outputs[0][i].shape != outputs[1][i].shape) continue;
    result.outputs.push_back(output_difference(a.outputs[i].name, outputs[0][i], outputs[1][i]));
  }
  return {};
}

}  // namespace

std::string Comparison::first(double tolerance) const {
  if (!signature.empty()) return "the signature, " + signature;
  if (!weight.empty()) return "weight " + weight;
  for (const OutputDifference& d : outputs)
    if (tolerance == 0 ? d.different > 0 : !(d.largest <= tolerance * d.magnitude))
      return fmt::format("output '{}', {} of {} values by up to {:.3g}", d.name, d.different, d.count, d.largest);
  return "";
}

bool Comparison::is_equal(double tolerance) const { return first(tolerance).empty(); }

Result<Comparison> compare(const Program& a, const Program& b, const CompareOptions& options) {
  Comparison result;
  const program::Signature left = a.signature(), right = b.signature();
  const std::string text = to_string(left), other = to_string(right);
  if (text != other) result.signature = fmt::format("{} and {}", text, other);
  compare_weights(a, b, result);
  result.node = node_difference(a, b);
  if (has_same_types(left.inputs, right.inputs) && has_same_types(left.outputs, right.outputs))
    BITLAB_RETURN_IF_ERROR(compare_runs(a, b, options, result));
  return result;
}

}  // namespace bitlab::runtime
