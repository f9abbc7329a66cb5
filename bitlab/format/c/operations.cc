// The form of each operation in C. One row an operation: what emits it, and for those that work element by element their formula.
#include "bitlab/format/c/internal/operations.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <numeric>

#include <fmt/format.h>

namespace bitlab::format::c {

using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;

Error refuse(const Node& node, std::string_view why) {
  return make_error(ErrorCode::kUnsupported, "[c] {} (node={}, op={})", why, node.name, program::name(node.op));
}

int64_t volume(const std::vector<int64_t>& sizes, size_t begin, size_t end) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(begin),
                         sizes.begin() + static_cast<std::ptrdiff_t>(end), int64_t{1}, std::multiplies<>());
}

namespace {

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

// --- element by element

Status elementwise(Emitter& e, const Node& node, const Row& row) {
  const std::vector<int64_t> y = e.shape(node.output());
  std::vector<Emitter::Operand> inputs;
  for (const ValueId id : node.inputs) inputs.push_back({id, View(e.shape(id)).broadcast(y)});
  const Type type = e.type(node.inputs.back());
  std::string formula(type == Type::kFloat || row.integers.empty() ? row.floats : row.integers);
  if (type != Type::kFloat && (row.integers.empty() || (type == Type::kBool && formula.find('U') != std::string::npos)))
    return refuse(node, "floats in C, got integers");
  formula = replaced(std::move(formula), "T", name(type));
  formula = replaced(std::move(formula), "U", fmt::format("u{}", name(type == Type::kBool ? Type::kInt8 : type)));
  if (row.libm) e.uses_libm();
  e.loops({node.output(), View(y)}, inputs, formula);
  return {};
}

Status batch_norm(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> shape = e.shape(node.inputs[0]);
  View by_channel(shape);
  std::fill(by_channel.strides.begin(), by_channel.strides.end(), 0);
  by_channel.strides[1] = 1;
  e.loops({node.output(), View(shape)},
          {{node.inputs[0], View(shape)}, {node.inputs[1], by_channel}, {node.inputs[2], by_channel}}, "a * b + c");
  return {};
}

Status cast(Emitter& e, const Node& node, const Row&) {
  const Type from = e.type(node.inputs[0]), to = e.type(node.output());
  std::string formula = fmt::format("({})a", name(to));
  if (to == Type::kBool) formula = "a != 0";
  if (from == Type::kFloat && (to == Type::kInt64 || to == Type::kInt32)) {
    const std::string function = to == Type::kInt64 ? "to_int64" : "to_int32";
    e.need(function);
    formula = function + "(a)";
  }
  const View view(e.shape(node.output()));
  e.loops({node.output(), view}, {{node.inputs[0], view}}, formula);
  return {};
}

// --- windows and rows

Status pool(Emitter& e, const Node& node, const Row& row) {
  const bool is_average = row.op == Op::avg_pool || row.op == Op::adaptive_avg_pool;
  const bool is_adaptive = row.op == Op::adaptive_max_pool || row.op == Op::adaptive_avg_pool;
  const Sizes kernel = is_adaptive ? Sizes{} : node.attribute<Sizes>("kernel_size");
  BITLAB_TRY(const Window w, window_of(e, node, kernel, 1));
  const bool is_plain = row.op == Op::avg_pool;
  const int64_t divisor = is_plain ? node.attribute<int64_t>("divisor") : 0;
  if (divisor > std::numeric_limits<int32_t>::max()) return refuse(node, "a divisor below 2^31");
  e.need("pool");
  e.line(fmt::format("pool(&{}, {}, {}, {}, {}, {}, {});", w.name, is_adaptive ? 1 : 0, is_average ? 1 : 0, divisor,
                     is_plain ? node.attribute<int64_t>("count_include_pad") : 0, e.pointer(node.inputs[0]),
                     e.pointer(node.output())));
  return {};
}

Status norm(Emitter& e, const Node& node, const Row& row) {
  const std::vector<int64_t> x = e.shape(node.inputs[0]);
  const int64_t columns = volume(x, x.size() - static_cast<size_t>(node.attribute<int64_t>("dims")), x.size());
  const bool is_layer = row.op == Op::layer_norm;
  e.need("norm_rows");
  e.line(fmt::format("norm_rows({}, {}, {}, {}, {}, {}, {:a}f, {});", e.pointer(node.inputs[0]),
                     e.count(node.inputs[0]) / columns, columns, is_layer ? 1 : 0, e.pointer(node.inputs[1]),
                     is_layer ? e.pointer(node.inputs[2]) : "NULL", static_cast<float>(node.attribute<double>("eps")),
                     e.pointer(node.output())));
  return {};
}

Status softmax(Emitter& e, const Node& node, const Row&) {
  const int64_t columns = e.shape(node.inputs[0]).back();
  e.need("softmax_rows");
  e.uses_libm();
  e.line(fmt::format("softmax_rows({}, {}, {}, {});", e.pointer(node.inputs[0]), e.count(node.inputs[0]) / columns, columns,
                     e.pointer(node.output())));
  return {};
}

// A function of each row; the formula's X is where it begins, N its length.
Status reduction(Emitter& e, const Node& node, const Row& row) {
  const int64_t columns = e.shape(node.inputs[0]).back();
  if (e.type(node.inputs[0]) != Type::kFloat) return refuse(node, "floats in C, got integers");
  const std::string_view formula = row.floats;
  e.need(formula.substr(0, formula.find('(')));
  const std::string x = fmt::format("{} + i * {}", e.pointer(node.inputs[0]), columns);
  const std::string value = replaced(replaced(std::string(formula), "X", x), "N", std::to_string(columns));
  e.line(
      fmt::format("for (int32_t i = 0; i < {}; ++i) {}[i] = {};", e.count(node.output()), e.pointer(node.output()), value));
  return {};
}

// --- movement

Status reshape(Emitter&, const Node&, const Row&) { return {}; }  // the same memory

Status permute(Emitter& e, const Node& node, const Row&) {
  e.copy({node.output(), View(e.shape(node.output()))},
         {node.inputs[0], View(e.shape(node.inputs[0])).permuted(node.attribute<Sizes>("dims"))});
  return {};
}

Status slice(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> y = e.shape(node.output());
  const auto dim = node.attribute<int64_t>("dim");
  e.copy({node.output(), View(y)},
         {node.inputs[0],
          View(e.shape(node.inputs[0]))
              .part(dim, node.attribute<int64_t>("start"), y[static_cast<size_t>(dim)], node.attribute<int64_t>("step"))});
  return {};
}

Status slice_scatter(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> y = e.shape(node.output()), source = e.shape(node.inputs[1]);
  const auto dim = node.attribute<int64_t>("dim");
  e.copy({node.output(), View(y)}, {node.inputs[0], View(y)});
  e.copy({node.output(), View(y).part(dim, node.attribute<int64_t>("start"), source[static_cast<size_t>(dim)],
                                      node.attribute<int64_t>("step"))},
         {node.inputs[1], View(source)});
  return {};
}

Status flip(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> shape = e.shape(node.output());
  View view(shape);
  for (const int64_t dim : node.attribute<Sizes>("dims")) {
    const int64_t size = shape[static_cast<size_t>(dim)];
    view = view.part(dim, size - 1, size, -1);
  }
  e.copy({node.output(), View(shape)}, {node.inputs[0], view});
  return {};
}

// What lies side by side along a node's dimension: visit(value, its view in the whole) for each of `parts`.
template <class Visit>
void each_part(const Emitter& e, const Node& node, ValueId whole, const std::vector<ValueId>& parts, Visit visit) {
  const auto dim = static_cast<size_t>(node.attribute<int64_t>("dim"));
  int64_t start = 0;
  for (const ValueId id : parts) {
    const int64_t length = e.shape(id)[dim];
    visit(id, View(e.shape(whole)).part(dim, start, length));
    start += length;
  }
}

Status cat(Emitter& e, const Node& node, const Row&) {
  each_part(e, node, node.output(), node.inputs, [&](ValueId id, const View& place) {
    e.copy({node.output(), place}, {id, View(e.shape(id))});
  });
  return {};
}

Status split(Emitter& e, const Node& node, const Row&) {
  each_part(e, node, node.inputs[0], node.outputs, [&](ValueId id, const View& place) {
    e.copy({id, View(e.shape(id))}, {node.inputs[0], place});
  });
  return {};
}

Status expand(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> y = e.shape(node.output());
  e.copy({node.output(), View(y)}, {node.inputs[0], View(e.shape(node.inputs[0])).broadcast(y)});
  return {};
}

// Parts along a dimension at indices: rows of a table, too.
Status take(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> x = e.shape(node.inputs[0]);
  const auto dim = static_cast<size_t>(node.attribute<int64_t>("dim"));
  e.need("take");
  e.check(fmt::format("take({}, {}, {}, {}, {}, {}, {})", e.pointer(node.inputs[0]), e.pointer(node.inputs[1]),
                      volume(x, 0, dim), x[dim], e.count(node.inputs[1]),
                      volume(x, dim + 1, x.size()) * size_of(e.type(node.inputs[0])), e.pointer(node.output())));
  return {};
}

Status positions(Emitter& e, const Node& node, const Row&) {
  if (node.attribute<int64_t>("continues") == 1) return refuse(node, "positions that begin at 0, got ones that continue");
  e.line(fmt::format("for (int32_t i = 0; i < {}; ++i) {}[i] = i;", e.count(node.output()), e.pointer(node.output())));
  return {};
}

constexpr std::array kRows{
    Row{Op::ternary_linear, ternary_linear},
    Row{Op::ternary_conv, ternary_conv},
    Row{Op::ternary_embedding, ternary_embedding},
    Row{Op::ternary_recurrent, ternary_recurrent},
    Row{Op::linear, linear},
    Row{Op::recurrent, recurrent},
    Row{Op::conv, conv},
    Row{Op::matmul, matmul},
    Row{Op::embedding, embedding},
    Row{Op::attention, attention},
    Row{Op::max_pool, pool},
    Row{Op::avg_pool, pool},
    Row{Op::adaptive_max_pool, pool},
    Row{Op::adaptive_avg_pool, pool},
    Row{Op::batch_norm, batch_norm},
    Row{Op::layer_norm, norm},
    Row{Op::rms_norm, norm},
    Row{Op::softmax, softmax},
    Row{Op::mean, reduction, "sum_row(X, N) / (float)N"},
    Row{Op::sum, reduction, "sum_row(X, N)"},
    Row{Op::max, reduction, "extreme_row(X, N, 1.0f)"},
    Row{Op::min, reduction, "extreme_row(X, N, -1.0f)"},
    Row{Op::argmax, reduction, "argmax_row(X, N)"},
    Row{Op::reshape, reshape},
    Row{Op::permute, permute},
    Row{Op::slice, slice},
    Row{Op::slice_scatter, slice_scatter},
    Row{Op::flip, flip},
    Row{Op::cat, cat},
    Row{Op::split, split},
    Row{Op::expand, expand},
    Row{Op::take, take},
    Row{Op::positions, positions},
    Row{Op::cast, cast},
    Row{Op::where, elementwise, "a ? b : c", "a ? b : c"},
    Row{Op::relu, elementwise, "a < 0.0f ? 0.0f : a"},
    Row{Op::gelu, elementwise, "0.5f * a * erfcf(-0.707106781f * a)", "", true},
    Row{Op::gelu_tanh, elementwise, "0.5f * a * (1.0f + tanhf(0.797884561f * (a + 0.044715f * a * a * a)))", "", true},
    Row{Op::silu, elementwise, "a / (1.0f + expf(-a))", "", true},
    Row{Op::sigmoid, elementwise, "1.0f / (1.0f + expf(-a))", "", true},
    Row{Op::tanh, elementwise, "tanhf(a)", "", true},
    Row{Op::exp, elementwise, "expf(a)", "", true},
    Row{Op::expm1, elementwise, "expm1f(a)", "", true},
    Row{Op::log, elementwise, "logf(a)", "", true},
    Row{Op::log1p, elementwise, "log1pf(a)", "", true},
    Row{Op::sqrt, elementwise, "a < 0.0f ? NAN : sqrtf(a)"},
    Row{Op::rsqrt, elementwise, "a < 0.0f ? NAN : 1.0f / sqrtf(a)"},
    Row{Op::erf, elementwise, "erff(a)", "", true},
    Row{Op::sin, elementwise, "sinf(a)", "", true},
    Row{Op::cos, elementwise, "cosf(a)", "", true},
    Row{Op::abs, elementwise, "fabsf(a)"},
    Row{Op::floor, elementwise, "floorf(a)"},
    Row{Op::ceil, elementwise, "ceilf(a)"},
    Row{Op::round, elementwise, "rintf(a)"},
    Row{Op::add, elementwise, "a + b", "(T)((U)a + (U)b)"},
    Row{Op::sub, elementwise, "a - b", "(T)((U)a - (U)b)"},
    Row{Op::mul, elementwise, "a * b", "(T)((U)a * (U)b)"},
    Row{Op::div, elementwise, "a / b"},
    Row{Op::minimum, elementwise, "a < b || a != a ? a : b", "a < b ? a : b"},
    Row{Op::maximum, elementwise, "a > b || a != a ? a : b", "a > b ? a : b"},
    Row{Op::atan2, elementwise, "atan2f(a, b)", "", true},
    Row{Op::equal, elementwise, "a == b", "a == b"},
    Row{Op::not_equal, elementwise, "a != b", "a != b"},
    Row{Op::less, elementwise, "a < b", "a < b"},
    Row{Op::less_equal, elementwise, "a <= b", "a <= b"},
    Row{Op::bitwise_and, elementwise, "", "a & b"},
    Row{Op::bitwise_or, elementwise, "", "a | b"},
    Row{Op::bitwise_xor, elementwise, "", "a ^ b"},
};

}  // namespace

Status emit(Emitter& emitter, const Node& node) {
  const auto* const row = std::find_if(kRows.begin(), kRows.end(), [&](const Row& r) { return r.op == node.op; });
  if (row == kRows.end()) return refuse(node, "an operation that has a form in C, got none");
  return row->emit(emitter, node, *row);
}

}  // namespace bitlab::format::c
