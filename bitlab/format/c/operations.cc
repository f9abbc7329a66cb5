// The form of each operation in C. One row an operation: what emits it, and for those that work element by element their formula.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "bitlab/format/c/internal/emitter.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::format::c {
namespace {

using program::input_of;
using program::kNone;
using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;

struct Row;
using Emit = Status (*)(Emitter&, const Node&, const Row&);
struct Row {
  Op op;
  Emit emit;
  std::string_view floats{};    // the formula of a, b, c
  std::string_view integers{};  // the same of integers; T is their type, U the one without sign
  bool libm = false;            // whether the C library has a part in the result
};

Error refuse(const Node& node, std::string_view why) {
  return make_error(ErrorCode::kUnsupported, "[c] {} (node={}, op={})", why, node.name, program::name(node.op));
}

int64_t volume(const std::vector<int64_t>& sizes, size_t begin, size_t end) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(begin),
                         sizes.begin() + static_cast<std::ptrdiff_t>(end), int64_t{1}, std::multiplies<>());
}

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

// --- products

Result<double> limit_of(const Node& node) {
  BITLAB_TRY(const ternary::ActKind kind, ternary::parse_act_kind(node.attribute<std::string>("activation")));
  return kind == ternary::ActKind::kNone ? 0.0 : static_cast<double>(ternary::act_limit(kind));
}

float step_of(const Emitter& e, ValueId id) {
  return id == kNone ? 0.0F : std::get<program::FloatData>(e.program().constant(id)->data)[0];
}

Status ternary_linear(Emitter& e, const Node& node, const Row&) {
  BITLAB_TRY(const double limit, limit_of(node));
  const auto &x = node.inputs[0], &weight = node.inputs[input_of(Op::ternary_linear, "weight")];
  const std::string p = e.product(weight, node.inputs[input_of(Op::ternary_linear, "bias")], limit,
                                  step_of(e, node.inputs[input_of(Op::ternary_linear, "act_scale")]));
  const int64_t depth = e.shape(weight)[1], tokens = e.count(x) / depth;
  e.add_macs(tokens * e.count(weight));
  if (limit == 0) {
    e.need("weight_only_linear");
    e.line(fmt::format("weight_only_linear(&{}, {}, {}, {});", p, e.pointer(x), tokens, e.pointer(node.output())));
  } else {
    e.need("ternary_linear");
    e.check(fmt::format("ternary_linear(&{}, {}, {}, {}, {})", p, e.pointer(x), tokens, e.pointer(node.output()),
                        e.scratch(Type::kInt8, depth)));
  }
  return {};
}

// Three sizes of a node's windows, with `fill` for those that are not there.
std::array<int64_t, 3> three(std::span<const int64_t> sizes, int64_t fill) {
  std::array<int64_t, 3> all{fill, fill, fill};
  std::copy(sizes.begin(), sizes.end(), all.end() - static_cast<std::ptrdiff_t>(sizes.size()));
  return all;
}

}  // namespace

Result<Window> window_of(Emitter& e, const Node& node, std::span<const int64_t> kernel, int64_t groups) {
  const std::vector<int64_t> x = e.shape(node.inputs[0]), y = e.shape(node.output());
  const auto attribute = [&](const std::string& key, int64_t fill) {
    return node.attributes.contains(key) ? three(node.attribute<Sizes>(key), fill)
                                         : std::array<int64_t, 3>{fill, fill, fill};
  };
  const auto in = three(std::span(x).subspan(2), 1), out = three(std::span(y).subspan(2), 1), k = three(kernel, 1),
             stride = attribute("stride", 1), padding = attribute("padding", 0), dilation = attribute("dilation", 1);
  for (size_t d = 0; d < 3; ++d) {
    constexpr int64_t kMost = int64_t{1} << 15;  // keeps every coordinate inside int32
    if (std::max({k[d], stride[d], padding[d], dilation[d]}) > kMost)
      return refuse(node, "windows, strides and paddings of at most 32768");
  }
  const auto list = [](const std::array<int64_t, 3>& sizes) { return fmt::format("{{{}}}", fmt::join(sizes, ", ")); };
  const Window w{"", volume(x, 2, x.size()), x[1], volume(y, 2, y.size()), k[0] * k[1] * k[2]};
  if (w.taps > (int64_t{1} << 24)) return refuse(node, "windows of at most 2^24 values");
  const bool is_transposed = node.attributes.contains("transposed") && node.attribute<int64_t>("transposed") == 1;
  e.need("window");
  Window named = w;
  named.name = e.constant("window", fmt::format("{{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}}", x[0], x[1], groups,
                                                list(in), list(out), list(k), list(stride), list(padding), list(dilation),
                                                w.pixels, w.positions, w.taps, is_transposed ? 1 : 0));
  return named;
}

Result<Window> conv_window(Emitter& e, const Node& node, ValueId weight) {
  const std::vector<int64_t> shape = e.shape(weight);
  return window_of(e, node, std::span(shape).subspan(1, shape.size() - 2), node.attribute<int64_t>("groups"));
}

namespace {

Status ternary_conv(Emitter& e, const Node& node, const Row&) {
  BITLAB_TRY(const double limit, limit_of(node));
  const ValueId x = node.inputs[0], weight = node.inputs[input_of(Op::ternary_conv, "weight")];
  BITLAB_TRY(const Window w, conv_window(e, node, weight));
  const std::string p = e.product(weight, node.inputs[input_of(Op::ternary_conv, "bias")], limit,
                                  step_of(e, node.inputs[input_of(Op::ternary_conv, "act_scale")]));
  const int64_t depth = program::weight_depth(e.program().value(weight).shape);
  e.add_macs(e.count(node.output()) * depth);
  const std::string pixels = e.scratch(Type::kInt32, w.taps);
  if (limit == 0) {
    e.need("weight_only_conv");
    e.line(fmt::format("weight_only_conv(&{}, &{}, {}, {}, {}, {});", p, w.name, e.pointer(x), e.pointer(node.output()),
                       e.scratch(Type::kFloat, depth), pixels));
    return {};
  }
  e.need("ternary_conv");
  const std::string q = e.scratch(Type::kInt8, w.pixels * w.channels), patch = e.scratch(Type::kInt8, depth);
  e.check(fmt::format("ternary_conv(&{}, &{}, {}, {}, {}, {}, {})", p, w.name, e.pointer(x), e.pointer(node.output()), q,
                      patch, pixels));
  return {};
}

Status linear(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> weight = e.shape(node.inputs[1]);
  const int64_t tokens = e.count(node.inputs[0]) / weight[1];
  e.add_macs(tokens * weight[0] * weight[1]);
  e.need("linear");
  e.line(fmt::format("linear({}, {}, {}, {}, {}, {}, {});", e.pointer(node.inputs[1]), e.pointer(node.inputs[2]), weight[0],
                     weight[1], e.pointer(node.inputs[0]), tokens, e.pointer(node.output())));
  return {};
}

// Steps over the tokens of all samples. h0: the place of that input, which c0 follows. product(h, u): a line that computes the gates of hidden states.
template <class Product>
Status recurrent_steps(Emitter& e, const Node& node, size_t h0, const Product& product) {
  const std::vector<int64_t> y = e.shape(node.output());
  const bool is_lstm = node.attribute<std::string>("cell") == "lstm", reverse = node.attribute<int64_t>("reverse") == 1;
  const int64_t batch = y[0], tokens = y[1], hidden = y[2], gates = (is_lstm ? 4 : 3) * hidden;
  e.uses_libm();
  const std::string u = e.scratch(Type::kFloat, batch * gates), h = e.pointer(node.outputs[1]),
                    c = is_lstm ? e.pointer(node.outputs[2]) : "NULL";
  const std::string step = is_lstm ? "lstm_step" : "gru_step";
  e.need(step);
  const auto begin = [&](const std::string& state, ValueId from) {
    e.line(fmt::format("for (int32_t i = 0; i < {}; ++i) {}[i] = {};", batch * hidden, state,
                       from == kNone ? "0.0f" : e.pointer(from) + "[i]"));
  };
  begin(h, node.inputs[h0]);
  if (is_lstm) begin(c, node.inputs[h0 + 1]);
  e.line(fmt::format("for (int32_t i = 0; i < {}; ++i) {{", tokens));
  product(h, u);
  const std::string token = reverse ? fmt::format("{} - i", tokens - 1) : "i";
  e.line(fmt::format("  {}({}, {}, {}, {}, {}, {}, {}, {}, {});", step, e.pointer(node.inputs[0]), u, batch, tokens, token,
                     hidden, h, c, e.pointer(node.output())));
  e.line("}");
  return {};
}

Status ternary_recurrent(Emitter& e, const Node& node, const Row&) {
  BITLAB_TRY(const double limit, limit_of(node));
  const ValueId weight = node.inputs[input_of(Op::ternary_recurrent, "weight")];
  const std::string p = e.product(weight, node.inputs[input_of(Op::ternary_recurrent, "bias")], limit,
                                  step_of(e, node.inputs[input_of(Op::ternary_recurrent, "act_scale")]));
  const std::vector<int64_t> y = e.shape(node.output());
  e.add_macs(y[0] * y[1] * e.count(weight));
  const std::string q = limit == 0 ? "" : e.scratch(Type::kInt8, y[2]);
  e.need(limit == 0 ? "weight_only_linear" : "ternary_linear");
  return recurrent_steps(e, node, input_of(Op::ternary_recurrent, "h0"), [&](const std::string& h, const std::string& u) {
    if (limit == 0) {
      e.line(fmt::format("  weight_only_linear(&{}, {}, {}, {});", p, h, y[0], u));
    } else {
      e.check(fmt::format("ternary_linear(&{}, {}, {}, {}, {})", p, h, y[0], u, q));
    }
  });
}

Status recurrent(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> y = e.shape(node.output()), weight = e.shape(node.inputs[1]);
  e.add_macs(y[0] * y[1] * weight[0] * weight[1]);
  e.need("linear");
  return recurrent_steps(e, node, input_of(Op::recurrent, "h0"), [&](const std::string& h, const std::string& u) {
    e.line(fmt::format("  linear({}, {}, {}, {}, {}, {}, {});", e.pointer(node.inputs[1]), e.pointer(node.inputs[2]),
                       weight[0], weight[1], h, y[0], u));
  });
}

Status conv(Emitter& e, const Node& node, const Row&) {
  BITLAB_TRY(const Window w, conv_window(e, node, node.inputs[1]));
  const std::vector<int64_t> weight = e.shape(node.inputs[1]);
  const int64_t depth = volume(weight, 1, weight.size());
  e.add_macs(e.count(node.output()) * depth);
  e.need("conv");
  const std::string patch = e.scratch(Type::kFloat, depth), pixels = e.scratch(Type::kInt32, w.taps);
  e.line(fmt::format("conv({}, {}, {}, &{}, {}, {}, {}, {});", e.pointer(node.inputs[1]), e.pointer(node.inputs[2]),
                     weight[0], w.name, e.pointer(node.inputs[0]), e.pointer(node.output()), patch, pixels));
  return {};
}

Status matmul(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> a = e.shape(node.inputs[0]), b = e.shape(node.inputs[1]);
  const int64_t m = a[a.size() - 2], k = a.back(), n = b.back();
  e.add_macs(e.count(node.output()) * k);
  e.need("matmul");
  e.line(fmt::format("matmul({}, {}, {}, {}, {}, {}, {}, {});", e.pointer(node.inputs[0]), e.pointer(node.inputs[1]),
                     e.count(node.output()) / (m * n), m, k, n, b.size() == 2 ? 0 : k * n, e.pointer(node.output())));
  return {};
}

Status ternary_embedding(Emitter& e, const Node& node, const Row&) {
  const bool is_int8 = e.program().value(node.inputs[1]).storage == program::Storage::kInt8;
  const std::string p = e.product(node.inputs[1], kNone, 0, 0), function = is_int8 ? "int8_embedding" : "ternary_embedding";
  e.need(function);
  e.check(fmt::format("{}(&{}, {}, {}, {})", function, p, e.pointer(node.inputs[0]), e.count(node.inputs[0]),
                      e.pointer(node.output())));
  return {};
}

Status attention(Emitter& e, const Node& node, const Row&) {
  using namespace program::attention_input;  // NOLINT(google-build-using-namespace)
  if (node.inputs[kKeyState] != kNone) return refuse(node, "attention without states");
  const std::vector<int64_t> q = e.shape(node.inputs[kQuery]), k = e.shape(node.inputs[kKey]),
                             v = e.shape(node.inputs[kValue]);
  const ValueId mask = node.inputs[kMask];
  View view({q[0], q[1], q[2], k[2]});
  std::fill(view.strides.begin(), view.strides.end(), 0);
  if (mask != kNone) {
    if (e.type(mask) == Type::kBool) return refuse(node, "masks of floats, got one of bool");
    view = View(e.shape(mask)).broadcast(view.sizes);
  }
  e.need("attention");
  e.uses_libm();
  e.add_macs(q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]));
  const std::string shape = e.constant(
      "attention_shape", fmt::format("{{{}, {}, {}, {}, {}, {}, {}, {}, {{{}}}, {:a}f}}", q[0], q[1], k[1], q[2], k[2], q[3],
                                     v[3], node.attribute<int64_t>("causal"), fmt::join(view.strides, ", "),
                                     static_cast<float>(node.attribute<double>("scale"))));
  e.line(fmt::format("attention(&{}, {}, {}, {}, {}, {}, {});", shape, e.pointer(node.inputs[kQuery]),
                     e.pointer(node.inputs[kKey]), e.pointer(node.inputs[kValue]), e.pointer(mask), e.pointer(node.output()),
                     e.scratch(Type::kFloat, k[2])));
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

Status embedding(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> table = e.shape(node.inputs[1]);
  e.need("float_embedding");
  e.check(fmt::format("float_embedding({}, {}, {}, {}, {}, {})", e.pointer(node.inputs[1]), e.pointer(node.inputs[0]),
                      table[0], e.count(node.inputs[0]), table[1], e.pointer(node.output())));
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
