// Products in C: layers with weights, recurrent ones, tables, attention.
#include <algorithm>
#include <array>
#include <numeric>

#include <fmt/format.h>

#include "bitlab/format/c/internal/operations.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::format::c {

using program::input_of;
using program::kNone;
using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;

namespace {

Result<double> limit_of(const Node& node) {
  BITLAB_TRY(const ternary::ActKind kind, ternary::parse_act_kind(node.attribute<std::string>("activation")));
  return kind == ternary::ActKind::kNone ? 0.0 : static_cast<double>(ternary::act_limit(kind));
}

float step_of(const Emitter& e, ValueId id) {
  return id == kNone ? 0.0F : std::get<program::FloatData>(e.program().constant(id)->data)[0];
}

// Three sizes of a node's windows, with `fill` for those that are not there.
std::array<int64_t, 3> three(std::span<const int64_t> sizes, int64_t fill) {
  std::array<int64_t, 3> all{fill, fill, fill};
  std::copy(sizes.begin(), sizes.end(), all.end() - static_cast<std::ptrdiff_t>(sizes.size()));
  return all;
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

}  // namespace

Result<Window> window_of(Emitter& e, const Node& node, std::span<const int64_t> kernel, int64_t groups) {
  const std::vector<int64_t> x = e.shape(node.inputs[0]), y = e.shape(node.output());
  const auto attribute = [&](const char* key, int64_t fill) {
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

Status ternary_embedding(Emitter& e, const Node& node, const Row&) {
  const bool is_int8 = e.program().value(node.inputs[1]).storage == program::Storage::kInt8;
  const std::string p = e.product(node.inputs[1], kNone, 0, 0), function = is_int8 ? "int8_embedding" : "ternary_embedding";
  e.need(function);
  e.check(fmt::format("{}(&{}, {}, {}, {})", function, p, e.pointer(node.inputs[0]), e.count(node.inputs[0]),
                      e.pointer(node.output())));
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

Status recurrent(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> y = e.shape(node.output()), weight = e.shape(node.inputs[1]);
  e.add_macs(y[0] * y[1] * weight[0] * weight[1]);
  e.need("linear");
  return recurrent_steps(e, node, input_of(Op::recurrent, "h0"), [&](const std::string& h, const std::string& u) {
    e.line(fmt::format("  linear({}, {}, {}, {}, {}, {}, {});", e.pointer(node.inputs[1]), e.pointer(node.inputs[2]),
                       weight[0], weight[1], h, y[0], u));
  });
}

Status embedding(Emitter& e, const Node& node, const Row&) {
  const std::vector<int64_t> table = e.shape(node.inputs[1]);
  e.need("float_embedding");
  e.check(fmt::format("float_embedding({}, {}, {}, {}, {}, {})", e.pointer(node.inputs[1]), e.pointer(node.inputs[0]),
                      table[0], e.count(node.inputs[0]), table[1], e.pointer(node.output())));
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

}  // namespace bitlab::format::c
