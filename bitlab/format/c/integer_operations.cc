// The form of each operation in a network in integers (internal/integers.h). What moves values is emitted as in one of floats.
#include <algorithm>
#include <functional>
#include <numeric>

#include <fmt/format.h>

#include "bitlab/format/c/internal/emitter.h"

namespace bitlab::format::c {
namespace {

using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;

const Grid& grid_of(const Emitter& e, ValueId id) { return e.plan().grids[static_cast<size_t>(id)]; }
int64_t bytes_of(const Emitter& e, ValueId id) { return grid_of(e, id).bytes(); }

// A `scaling` as an initializer.
std::string initializer(Emitter& e, const Scaling& s) {
  e.need("scaling");
  return fmt::format("{{{}, {}, {}, {}, {}, {}, {}, {}}}", e.integers(s.factors), e.integers(s.offsets), s.has_rows ? 1 : 0,
                     s.offsets.size() > 1 ? 1 : 0, s.unit, s.shift, s.low, s.high);
}

// What a node's sums become, as an initializer.
Result<std::string> scaling_behind(Emitter& e, const Node& node) {
  BITLAB_TRY(const Sums sums, sums_of(e.plan(), node, e.sizes()));
  BITLAB_TRY(const Scaling scaling, scaling_of(node, sums, grid_of(e, node.output())));
  return initializer(e, scaling);
}

// The input of a product on the grid that it reads: where others read the value as well, narrowed for this node alone.
Result<std::string> narrowed(Emitter& e, const Node& node) {
  const ValueId x = node.inputs[0];
  const Grid &from = grid_of(e, x), to = grid_read_by(e.program(), node);
  if (from == to) return e.pointer(x);
  BITLAB_TRY(const Scaling scaling, scaling_of(node, {{from.step}, {from.most()}, {}}, to));
  const std::string q = e.scratch(Type::kInt8, e.count(x));
  e.need("rescale");
  e.line(fmt::format("rescale(&{}, {}, {}, {}, {}, 1);", e.constant("scaling", initializer(e, scaling)), e.pointer(x),
                     bytes_of(e, x), e.count(x), q));
  return q;
}

Result<std::string> integer_product(Emitter& e, const Node& node) {
  const ValueId weight = node.inputs[kWeightInput];
  const Emitter::Weights weights = e.weights(weight);
  const std::string row = "sums_" + weights.kind;
  e.need(row);
  BITLAB_TRY(const std::string scaling, scaling_behind(e, node));
  const auto* ternary = std::get_if<program::TernaryData>(&e.program().constant(weight)->data);
  const int64_t depth = program::weight_depth(e.program().value(weight).shape),
                group = ternary == nullptr ? 0 : ternary->group;
  return e.constant("integer_product", fmt::format("{{{}, {}, {}, {}, {}, {}, {}, {}}}", row, weights.array, scaling,
                                                   program::weight_rows(e.program().value(weight).shape), depth,
                                                   weights.row_bytes, group, group == 0 ? 0 : (depth + group - 1) / group));
}

Status integer_linear(Emitter& e, const Node& node) {
  const int64_t depth = e.shape(node.inputs[kWeightInput])[1], tokens = e.count(node.inputs[0]) / depth;
  BITLAB_TRY(const std::string x, narrowed(e, node));
  BITLAB_TRY(const std::string p, integer_product(e, node));
  e.add_macs(tokens * e.count(node.inputs[kWeightInput]));
  e.need("integer_linear");
  e.line(fmt::format("integer_linear(&{}, {}, {}, {}, {});", p, x, tokens, e.pointer(node.output()),
                     bytes_of(e, node.output())));
  return {};
}

Status integer_conv(Emitter& e, const Node& node) {
  const ValueId weight = node.inputs[kWeightInput];
  const int64_t depth = program::weight_depth(e.program().value(weight).shape);
  BITLAB_TRY(const Window w, conv_window(e, node, weight));
  BITLAB_TRY(const std::string x, narrowed(e, node));
  BITLAB_TRY(const std::string p, integer_product(e, node));
  e.add_macs(e.count(node.output()) * depth);
  const std::string patch = e.scratch(Type::kInt8, depth), pixels = e.scratch(Type::kInt32, w.taps);
  e.need("integer_conv");
  e.line(fmt::format("integer_conv(&{}, &{}, {}, {}, {}, {}, {});", p, w.name, x, e.pointer(node.output()),
                     bytes_of(e, node.output()), patch, pixels));
  return {};
}

// The largest of each window, or its sum, scaled. A mean over the last dimension is that of windows of all its values.
Status integer_pool(Emitter& e, const Node& node) {
  const ValueId x = node.inputs[0], y = node.output();
  const bool is_maximum = node.op == Op::max_pool || node.op == Op::adaptive_max_pool;
  std::string scaling = "NULL", w;
  if (!is_maximum) {
    BITLAB_TRY(const std::string behind, scaling_behind(e, node));
    scaling = "&" + e.constant("scaling", behind);
  }
  if (node.op == Op::mean) {
    const int64_t columns = e.shape(x).back(), rows = e.count(x) / columns;
    e.need("window");
    w = e.constant("window",
                   fmt::format("{{1, {0}, 1, {{1, 1, {1}}}, {{1, 1, 1}}, {{1, 1, {1}}}, {{1, 1, 1}}, {{0, 0, 0}}, {{1, "
                               "1, 1}}, {1}, 1, {1}, 0}}",
                               rows, columns));
  } else {
    const bool is_adaptive = !node.attributes.contains("kernel_size");
    BITLAB_TRY(const Window window, window_of(e, node, is_adaptive ? Sizes{} : node.attribute<Sizes>("kernel_size"), 1));
    w = window.name;
  }
  e.need("integer_pool");
  e.line(fmt::format("integer_pool(&{}, {}, {}, {}, {}, {}, {});", w, node.attributes.contains("output_size") ? 1 : 0,
                     scaling, e.pointer(x), bytes_of(e, x), e.pointer(y), bytes_of(e, y)));
  return {};
}

Status integer_norm(Emitter& e, const Node& node) {
  const std::vector<int64_t> shape = e.shape(node.inputs[0]);
  BITLAB_TRY(const std::string scaling, scaling_behind(e, node));
  const int64_t inner = std::accumulate(shape.begin() + 2, shape.end(), int64_t{1}, std::multiplies<>());
  e.need("rescale_channels");
  e.line(fmt::format("rescale_channels(&{}, {}, {}, {}, {}, {}, {}, {});", e.constant("scaling", scaling),
                     e.pointer(node.inputs[0]), bytes_of(e, node.inputs[0]), e.count(node.output()), shape[1], inner,
                     e.pointer(node.output()), bytes_of(e, node.output())));
  return {};
}

Status integer_sum(Emitter& e, const Node& node) {
  BITLAB_TRY(const std::string scaling, scaling_behind(e, node));
  e.need("integer_sum");
  e.line(fmt::format("integer_sum(&{}, {}, {}, {}, {}, {}, {}, {});", e.constant("scaling", scaling),
                     e.pointer(node.inputs[0]), bytes_of(e, node.inputs[0]), e.pointer(node.inputs[1]),
                     bytes_of(e, node.inputs[1]), e.count(node.output()), e.pointer(node.output()),
                     bytes_of(e, node.output())));
  return {};
}

}  // namespace

Status emit_integers(Emitter& e, const Node& node) {
  switch (node.op) {
    case Op::ternary_linear:
      return integer_linear(e, node);
    case Op::ternary_conv:
      return integer_conv(e, node);
    case Op::max_pool:
    case Op::adaptive_max_pool:
    case Op::avg_pool:
    case Op::adaptive_avg_pool:
    case Op::mean:
      return integer_pool(e, node);
    case Op::batch_norm:
      return integer_norm(e, node);
    case Op::add:
    case Op::sub:
      return integer_sum(e, node);
    default:
      break;
  }
  const auto clamp = clamp_of(e.program(), node);
  if (!clamp) return emit(e, node);
  const Grid& grid = grid_of(e, node.output());
  std::string formula;
  if (const int64_t low = grid.nearest(clamp->low); low > -grid.limit) formula += fmt::format("a < {0} ? {0} : ", low);
  if (const int64_t high = grid.nearest(clamp->high); high < grid.limit) formula += fmt::format("a > {0} ? {0} : ", high);
  const View view(e.shape(node.output()));
  e.loops({node.output(), view}, {{node.inputs[0], view}}, formula + "a");
  return {};
}

}  // namespace bitlab::format::c
