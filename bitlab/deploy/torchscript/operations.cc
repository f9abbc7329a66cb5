// Operations that are more than an expression of ops.def.
#include <algorithm>
#include <array>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "bitlab/deploy/torchscript/internal/writer.h"
#include "bitlab/ops/layout.h"
#include "bitlab/program/internal/attention_input.h"

namespace bitlab::deploy::torchscript {

using program::input_of;
using program::Node;
using program::Op;
using program::Shape;
using program::Sizes;

Result<std::string> script_ternary_linear(Writer& w, const Node& node) {
  const Writer::Weight weight = w.weight(node.inputs[input_of(Op::ternary_linear, "weight")]);
  return w.fill(node, fmt::format("{{ours}}.ternary_linear({{x}}, {}, {{bias}}, {{act_scale}}, {{activation}}, {})",
                                  weight.operands, weight.group));
}

Result<std::string> script_ternary_conv(Writer& w, const Node& node) {
  constexpr size_t kWeight = input_of(Op::ternary_conv, "weight");
  const Writer::Weight weight = w.weight(node.inputs[kWeight]);
  const Shape& filters = w.value(node, kWeight).shape;
  return w.fill(
      node,
      fmt::format("{{ours}}.ternary_conv({{x}}, {}, {{bias}}, {{act_scale}}, {}, {{stride}}, {{padding}}, {{dilation}}, "
                  "bool({{transposed}}), {{output_padding}}, {{groups}}, {{activation}}, {})",
                  weight.operands, w.sizes({filters.begin() + 1, filters.end() - 1}), weight.group));
}

Result<std::string> script_ternary_embedding(Writer& w, const Node& node) {
  constexpr size_t kWeight = input_of(Op::ternary_embedding, "weight");
  const Writer::Weight weight = w.weight(node.inputs[kWeight]);
  return w.fill(node, fmt::format("{{ours}}.ternary_embedding({}, {{indices}}, {}, {})", weight.operands,
                                  program::weight_depth(w.value(node, kWeight).shape), weight.group));
}

Result<std::string> script_ternary_recurrent(Writer& w, const Node& node) {
  const Writer::Weight weight = w.weight(node.inputs[input_of(Op::ternary_recurrent, "weight")]);
  return w.fill(node, fmt::format("{{ours}}.ternary_recurrent({{x}}, {}, {{bias}}, {{h0}}, {{c0}}, {{act_scale}}, {{cell}}, "
                                  "bool({{reverse}}), {{activation}}, {})",
                                  weight.operands, weight.group));
}

Result<std::string> script_recurrent(Writer& w, const Node& node) {
  const Node* inputs = w.product_of_inputs(node);
  if (inputs == nullptr) return w.fill(node, "self.recurrent({x}, {weight}, {bias}, {h0}, {c0}, {cell}, bool({reverse}))");
  constexpr size_t kWeight = input_of(Op::recurrent, "weight"), kBias = input_of(Op::recurrent, "bias");
  static_assert(kWeight == input_of(Op::linear, "weight") && kBias == input_of(Op::linear, "bias"));
  std::string parameters = w.in(*inputs, kWeight) + ", " + w.in(node, kWeight);
  if (Writer::has(*inputs, kBias) || Writer::has(node, kBias))
    for (const Node* of : {inputs, &node}) {
      const at::Tensor none = at::zeros({program::weight_rows(w.shape(*of, kWeight))});
      parameters += ", " + (Writer::has(*of, kBias) ? w.in(*of, kBias) : w.buffer(of->name + ".bias", none, true));
    }
  return w.fill(node, fmt::format("self.recurrent_layer({}, [{}], {{h0}}, {{c0}}, {{cell}}, bool({{reverse}}))",
                                  w.in(*inputs, 0), parameters));
}

// Filters of a program are [rows, kernel..., channels / groups].
Result<std::string> script_conv(Writer& w, const Node& node) {
  constexpr size_t kWeight = input_of(Op::conv, "weight");
  const program::Value& value = w.value(node, kWeight);
  const bool transposed = node.attribute<int64_t>("transposed") == 1;
  const int64_t groups = node.attribute<int64_t>("groups");
  Sizes sizes = shape_at(value.shape, program::kOnes);  // as LibTorch has them
  std::rotate(sizes.begin() + 1, sizes.end() - 1, sizes.end());
  if (transposed) std::swap(sizes[0] /= groups, sizes[1] *= groups);
  const at::Tensor like = at::empty(sizes, at::TensorOptions(at::kMeta));
  const at::Tensor matrix = w.tensor(node.inputs[kWeight]).reshape({program::weight_rows(value.shape), -1});
  const at::Tensor filters = ops::WeightLayout("conv", like, transposed, groups).from_matrix(matrix);
  const std::string weight = w.as_float(w.buffer(value.name, filters.contiguous(), true), filters);
  const std::string_view rest = transposed ? "{stride}, {padding}, {output_padding}, {groups}, {dilation}"
                                           : "{stride}, {padding}, {dilation}, {groups}";
  return w.fill(node,
                fmt::format("torch.conv{}{{n}}d({{x}}, {}, {{bias}}, {})", transposed ? "_transpose" : "", weight, rest));
}

Result<std::string> script_avg_pool(Writer& w, const Node& node) {
  const bool has_divisor = node.attribute<int64_t>("divisor") != 0;
  if (has_divisor && node.attribute<Sizes>("kernel_size").size() == 1)
    return w.refuse(node, "a divisor of two sizes or three");
  return w.fill(node, std::string("torch.avg_pool{n}d({x}, {kernel_size}, {stride}, {padding}, bool({ceil_mode}), "
                                  "bool({count_include_pad})") +
                          (has_divisor ? ", {divisor})" : ")"));
}

Result<std::string> script_resample(Writer& w, const Node& node) {
  const auto& mode = node.attribute<std::string>("mode");
  const size_t n = node.attribute<Shape>("output_size").size();
  constexpr std::array<std::string_view, 3> kLinear{"linear1d", "bilinear2d", "trilinear3d"};
  if (mode == "nearest") return w.fill(node, "torch.upsample_nearest{n}d({x}, {output_size})");
  if (mode == "nearest_exact") return w.fill(node, "torch._upsample_nearest_exact{n}d({x}, {output_size})");
  const bool is_linear = mode.starts_with("linear"), smooth = mode.ends_with("antialias");
  if (n != 2 && (smooth || !is_linear)) return w.refuse(node, fmt::format("{} of two sizes", mode));
  const std::string_view kernel = is_linear ? kLinear.at(n - 1) : "bicubic2d";
  return w.fill(node, fmt::format("torch.{}upsample_{}{}({{x}}, {{output_size}}, bool({{align_corners}}))",
                                  smooth ? "_" : "", kernel, smooth ? "_aa" : ""));
}

Result<std::string> script_grid_sample(Writer& w, const Node& node) {
  const auto &mode = node.attribute<std::string>("mode"), &padding = node.attribute<std::string>("padding");
  return w.fill(
      node, fmt::format("torch.grid_sampler({{x}}, {{grid}}, {}, {}, bool({{align_corners}}))", mode == "nearest" ? 1 : 0,
                        padding == "zeros"    ? 0
                        : padding == "border" ? 1
                                              : 2));
}

Result<std::string> script_scatter(Writer& w, const Node& node) {
  const auto& mode = node.attribute<std::string>("mode");
  const std::string places = "{dim}, self.from_front({indices}, {x}.size({dim})), {source}";
  if (mode == "set") return w.fill(node, "torch.scatter({x}, " + places + ")");
  if (mode == "add") return w.fill(node, "torch.scatter_add({x}, " + places + ")");
  const std::string reduce = mode == "mul" ? "prod" : mode == "minimum" ? "amin" : "amax";
  return w.fill(node, "torch.scatter_reduce({x}, " + places + ", \"" + reduce + "\", include_self=True)");
}

Result<std::string> script_take(Writer& w, const Node& node) {
  std::string all;
  for (int64_t dim = 0; dim < node.attribute<int64_t>("dim"); ++dim) all += ":, ";
  return w.fill(node, "{x}[" + all + "{indices}]");
}

// A list of one is not taken apart.
Result<std::string> script_split(Writer& w, const Node& node) {
  return w.fill(node, std::string("torch.split_with_sizes({x}, {sizes}, {dim})") + (node.outputs.size() == 1 ? "[0]" : ""));
}

Result<std::string> script_cast(Writer& w, const Node& node) {
  BITLAB_TRY(const program::DType dtype, program::parse_dtype(node.attribute<std::string>("dtype")));
  return w.fill(node, fmt::format("torch.to({{x}}, {})", script_dtype(dtype)));
}

Result<std::string> script_positions(Writer& w, const Node& node) {
  const std::string size = w.size(node.attribute<Shape>("size")[0]);
  if (node.attribute<int64_t>("continues") == 0 || w.p.states.empty())
    return fmt::format("torch.arange({}{})", size, w.device());
  return fmt::format("torch.arange({0}, {0} + {1}{2})", w.past(), size, w.device());
}

Result<std::string> script_attention(Writer& w, const Node& node) {
  namespace input = program::attention_input;
  const bool continues = w.has(node, input::kKeyState);
  const auto all = [&](size_t part, size_t state) {
    if (!continues) return w.in(node, part);
    const std::string name = w.unique(w.value(node, state).name + "_next");
    w.add(fmt::format("{} = torch.cat([{}, {}], 2)", name, w.in(node, state), w.in(node, part)));
    w.set_next_state(node.inputs[state], name);
    return name;
  };
  const std::string k = all(input::kKey, input::kKeyState), v = all(input::kValue, input::kValueState);
  return w.fill(node, fmt::format("self.attention({{q}}, {}, {}, {{mask}}, bool({{causal}}), {{scale}}, {})", k, v,
                                  continues ? w.past() : "0"));
}

}  // namespace bitlab::deploy::torchscript
