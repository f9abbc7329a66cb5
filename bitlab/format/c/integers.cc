#include "bitlab/format/c/internal/integers.h"

#include <array>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/format/c/internal/pooling.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::format::c {
namespace {

using program::kNone;
using program::Node;
using program::Op;
using program::Program;
using program::ValueId;
using program::ValueKind;

bool is_product(Op op) { return op == Op::ternary_linear || op == Op::ternary_conv; }
bool is_average(Op op) { return op == Op::avg_pool || op == Op::adaptive_avg_pool || op == Op::mean; }
bool scales(Op op) { return is_product(op) || is_average(op) || op == Op::batch_norm || op == Op::add || op == Op::sub; }

ternary::ActKind activation_of(const Node& node) {
  return *ternary::parse_act_kind(node.attribute<std::string>("activation"));  // which verify() has seen to
}

std::vector<double> numbers(const Program& p, ValueId id) {
  const std::vector<float> values = p.floats(id);
  return {values.begin(), values.end()};
}

bool is_constant(const Program& p, ValueId id) { return p.value(id).kind == ValueKind::kConstant; }

}  // namespace

Error no_integers(const Node& node, std::string_view why) {
  return make_error(ErrorCode::kUnsupported, "[c] a form in integers, got {} (node={}, op={})", why, node.name,
                    program::name(node.op));
}

int64_t Grid::nearest(double x) const {
  const auto most_q = static_cast<double>(limit);
  return static_cast<int64_t>(std::clamp(std::floor(x / step + 0.5), -most_q, most_q));
}

double Sums::bound() const {
  double bound = 0;
  for (size_t n = 0; n < rows(); ++n) {
    double most_sum = 0;
    for (size_t g = 0; g < parts; ++g) most_sum += most_of(n, g) * std::fabs(factor(n, g));
    bound = std::max({bound, std::fabs(clamp(offset(n) + most_sum)), std::fabs(clamp(offset(n) - most_sum))});
  }
  return bound;
}

namespace {

// How many bits behind the point offsets keep inside int32, where factors have `shift`.
std::optional<int64_t> offset_bits(const Sums& sums, const Grid& grid, int64_t shift) {
  double most = 0;
  for (const double offset : sums.offsets) most = std::max(most, std::fabs(offset / grid.step));
  for (int64_t lost = 0; lost <= 30; ++lost)
    if (std::ldexp(most, static_cast<int>(shift - lost)) <= std::numeric_limits<int32_t>::max()) return shift - lost;
  return std::nullopt;
}

// Whether factors of so many bits behind the point fit, and every sum stays below 2^62.
bool fits(const Sums& sums, const Grid& grid, int64_t shift) {
  const auto scaled = [&](double x) { return std::ldexp(std::fabs(x) / grid.step, static_cast<int>(shift)); };
  for (size_t n = 0; n < sums.rows(); ++n) {
    double most = scaled(sums.offset(n)) + std::ldexp(1.0, static_cast<int>(shift));
    for (size_t g = 0; g < sums.parts; ++g) {
      if (scaled(sums.factor(n, g)) > std::numeric_limits<int32_t>::max() - 1) return false;
      most += sums.most_of(n, g) * (scaled(sums.factor(n, g)) + 1);
    }
    if (most > std::ldexp(1.0, 62)) return false;
  }
  return offset_bits(sums, grid, shift).has_value();
}

}  // namespace

Result<Scaling> scaling_of(const Node& node, const Sums& sums, const Grid& grid) {
  const auto is_finite = [](double x) { return std::isfinite(x); };
  if (!std::all_of(sums.factors.begin(), sums.factors.end(), is_finite) ||
      !std::all_of(sums.offsets.begin(), sums.offsets.end(), is_finite))
    return no_integers(node, "scales that are not finite");
  Scaling s;
  s.has_rows = sums.factors.size() > sums.parts;
  s.low = grid.nearest(sums.clamp.low), s.high = grid.nearest(sums.clamp.high);
  s.shift = 60;
  while (s.shift > 0 && !fits(sums, grid, s.shift)) --s.shift;
  if (s.shift == 0) return no_integers(node, "scales so far apart that no factors of 31 bits stand for them");
  const int64_t bits = *offset_bits(sums, grid, s.shift);
  s.unit = int64_t{1} << (s.shift - bits);
  const auto rounded = [&](double x, int64_t behind) {
    return static_cast<int32_t>(std::llround(std::ldexp(x / grid.step, static_cast<int>(behind))));
  };
  for (const double factor : sums.factors) s.factors.push_back(rounded(factor, s.shift));
  for (const double offset : sums.offsets) s.offsets.push_back(rounded(offset, bits));
  return s;
}

std::optional<Clamp> clamp_of(const Program& p, const Node& node) {
  Clamp clamp;
  if (node.op == Op::relu) {
    clamp.at_least(0);
    return clamp;
  }
  if ((node.op != Op::minimum && node.op != Op::maximum) || !is_constant(p, node.inputs[1])) return std::nullopt;
  const std::vector<double> bounds = numbers(p, node.inputs[1]);
  if (bounds.empty() || std::any_of(bounds.begin(), bounds.end(), [&](double b) { return b != bounds[0]; }))
    return std::nullopt;
  if (p.value(node.inputs[0]).shape != p.value(node.output()).shape) return std::nullopt;
  node.op == Op::maximum ? clamp.at_least(bounds[0]) : clamp.at_most(bounds[0]);
  return clamp;
}

Grid grid_read_by(const Program& p, const Node& node) {
  const float step = std::get<program::FloatData>(p.constant(node.inputs[kStepInput])->data)[0];
  const float inverse = 1.0F / step;  // which activations are multiplied by: docs/numerics.md
  return {1.0 / static_cast<double>(inverse), ternary::act_limit(activation_of(node))};
}

namespace {

// acc = sum of t q, by groups of weights or by sign, times the scales of weights and the step of activations.
Result<Sums> product_sums(const Program& p, const Node& node) {
  const ValueId weight = node.inputs[kWeightInput], bias = node.inputs[kBiasInput];
  const auto rows = static_cast<size_t>(program::weight_rows(p.value(weight).shape));
  const int64_t depth = program::weight_depth(p.value(weight).shape);
  const Grid grid = grid_read_by(p, node);
  Sums sums;
  const auto& data = p.constant(weight)->data;
  std::vector<double> sizes;  // of acc, in units of q
  if (const auto* kept = std::get_if<program::Int8Data>(&data)) {
    for (const float s : kept->scale) sums.factors.push_back(s);
    sizes.resize(rows);
    for (size_t i = 0; i < kept->t.size(); ++i) sizes[i / static_cast<size_t>(depth)] += std::abs(kept->t[i]);
  } else {
    const auto& ternary = std::get<program::TernaryData>(data);
    const int64_t group = ternary.group != 0 ? ternary.group : depth;
    const bool has_two = !ternary.scale_neg.empty();
    sums.parts = has_two ? 2 : static_cast<size_t>((depth + group - 1) / group);
    for (size_t n = 0; n < ternary.scale.size(); ++n) {
      sums.factors.push_back(ternary.scale[n]);
      if (has_two) sums.factors.push_back(-static_cast<double>(ternary.scale_neg[n]));
    }
    for (const uint16_t bits : ternary.group_scale) sums.factors.push_back(half_to_float(bits));
    sizes.resize(rows * sums.parts);
    for (size_t n = 0; n < rows; ++n)
      for (int64_t k = 0; k < depth; ++k) {
        const int code = ternary::code_at(&ternary.codes[n * static_cast<size_t>(ternary::code_row_bytes(depth))], k);
        const auto part = static_cast<size_t>(has_two ? (code == 0 ? 1 : 0) : k / group);
        sizes[n * sums.parts + part] += code != 1 ? 1 : 0;
      }
  }
  for (double& factor : sums.factors) factor *= grid.step;
  for (const double size : sizes) {
    constexpr double kLargest = 128;  // of a caller's int8
    if (size * kLargest > std::numeric_limits<int32_t>::max()) return no_integers(node, "sums that may leave int32");
    sums.most.push_back(size * kLargest);
  }
  if (bias != kNone) sums.offsets = numbers(p, bias);
  return sums;
}

void absorb_norm(const Program& p, const Node& norm, Sums& sums) {
  const std::vector<double> scale = numbers(p, norm.inputs[1]), shift = numbers(p, norm.inputs[2]);
  Sums before = sums;
  sums.factors.clear(), sums.offsets.clear();
  for (size_t n = 0; n < scale.size(); ++n) {
    for (size_t g = 0; g < sums.parts; ++g) sums.factors.push_back(before.factor(n, g) * scale[n]);
    sums.offsets.push_back(before.offset(n) * scale[n] + shift[n]);
  }
}

}  // namespace

Result<Sums> sums_of(const IntegerPlan& plan, const Node& node, const program::SymbolSizes& sizes) {
  const Program& p = plan.program;
  const auto grid = [&](size_t input) { return plan.grids[static_cast<size_t>(node.inputs[input])]; };
  Sums sums;
  if (is_product(node.op)) {
    BITLAB_TRY(sums, product_sums(p, node));
  } else if (is_average(node.op)) {
    BITLAB_TRY(const Average average, average_of(p, node, sizes));
    sums.factors = {grid(0).step / average.divisor};
    sums.most = {grid(0).most() * average.taps};
  } else if (node.op == Op::batch_norm) {
    sums.factors = {grid(0).step}, sums.most = {grid(0).most()};
    absorb_norm(p, node, sums);
  } else {
    sums.parts = 2;
    sums.factors = {grid(0).step, node.op == Op::add ? grid(1).step : -grid(1).step};
    sums.most = {grid(0).most(), grid(1).most()};
  }
  if (const auto at = plan.absorbed.find(node.name); at != plan.absorbed.end())
    for (const Node& next : at->second) {
      if (next.op == Op::batch_norm) {
        absorb_norm(p, next, sums);
        continue;
      }
      const Clamp clamp = *clamp_of(p, next);
      sums.clamp.at_least(clamp.low), sums.clamp.at_most(clamp.high);
    }
  return sums;
}

namespace {

// Why a node has no form; empty where it has one.
std::string reason(const Program& p, const Node& node) {
  switch (node.op) {
    case Op::ternary_linear:
    case Op::ternary_conv:
      if (ternary::is_static(activation_of(node))) return "";
      return fmt::format("activations of {}, whose scale is found by floats: {{int8_static, int4_static}} have one",
                         node.attribute<std::string>("activation"));
    case Op::minimum:
    case Op::maximum:
      return clamp_of(p, node) ? "" : "bounds other than one number";
    case Op::add:
    case Op::sub:
      if (is_constant(p, node.inputs[0]) || is_constant(p, node.inputs[1])) return "a constant, which has no step";
      return p.value(node.inputs[0]).shape == p.value(node.inputs[1]).shape ? "" : "values of two shapes";
    case Op::cat:
      return std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return is_constant(p, id); })
                 ? "a constant, which has no step"
                 : "";
    case Op::mean:
    case Op::avg_pool:
    case Op::adaptive_avg_pool:
    case Op::max_pool:
    case Op::adaptive_max_pool:
    case Op::batch_norm:
    case Op::relu:
    case Op::reshape:
    case Op::permute:
    case Op::slice:
    case Op::flip:
    case Op::split:
    case Op::expand:
      return is_constant(p, node.inputs[0]) ? "a constant, which has no step" : "";
    case Op::linear:
    case Op::conv:
      return "weights of floats";
    case Op::layer_norm:
    case Op::rms_norm:
      return "a root of sums that every input has its own of";
    case Op::softmax:
    case Op::attention:
      return "exponential functions";
    default:
      return "an operation of floats";
  }
}

Status check_all(const Program& p) {
  for (const ValueId id : p.inputs)
    if (p.value(id).dtype != program::DType::kFloat32)
      return make_error(ErrorCode::kUnsupported, "[c] a form in integers of inputs of float32, got {} (value={})",
                        program::name(p.value(id).dtype), p.value(id).name);
  for (const program::Output& output : p.outputs)
    if (is_constant(p, output.value))
      return make_error(ErrorCode::kUnsupported,
                        "[c] a form in integers of outputs that are computed, got a constant (value={})",
                        p.value(output.value).name);
  for (const Node& node : p.nodes)
    if (const std::string why = reason(p, node); !why.empty()) return no_integers(node, why);
  return {};
}

// How often each value is read; an output of the program is read once more.
std::vector<int> readers(const Program& p) {
  std::vector<int> counts(p.values.size());
  for (const Node& node : p.nodes)
    for (const ValueId id : node.inputs)
      if (id != kNone) ++counts[static_cast<size_t>(id)];
  for (const program::Output& output : p.outputs) ++counts[static_cast<size_t>(output.value)];
  return counts;
}

// A batch norm right behind a product whose rows are its channels, and clamps, become what ends their sums.
IntegerPlan absorb(const Program& p) {
  const std::vector<int> counts = readers(p);
  IntegerPlan plan{p, {}, {}};
  std::vector<Node>& nodes = plan.program.nodes;
  nodes.clear();
  std::map<ValueId, size_t> ends;  // what a scaling node ends with
  for (const Node& node : p.nodes) {
    const auto at = ends.find(node.inputs.empty() ? kNone : node.inputs[0]);
    const bool is_alone = at != ends.end() && counts[static_cast<size_t>(node.inputs[0])] == 1;
    bool joins = false;
    if (is_alone) {
      const Node& head = nodes[at->second];
      const bool has_rows =
          head.op == Op::ternary_conv || (head.op == Op::ternary_linear && p.value(head.output()).shape.size() == 2);
      joins = clamp_of(p, node).has_value() || (node.op == Op::batch_norm && has_rows && !plan.absorbed.contains(head.name));
    }
    size_t owner = nodes.size();
    if (joins) {
      owner = at->second;
      plan.absorbed[nodes[owner].name].push_back(node);
      nodes[owner].outputs = node.outputs;
    } else {
      nodes.push_back(node);
    }
    if (joins || scales(node.op)) ends[node.output()] = owner;
  }
  return plan;
}

// What the readers of a value want: one grid, or a wide one where they differ.
struct Wish {
  bool is_read = false;
  bool is_fine = false;  // something else than an average, which evens roundings out, reads it
  Grid grid{};
  void add(const Grid& wanted) {
    grid = !is_read || grid == wanted ? wanted : Grid{};
    is_read = true;
  }
  void add(const Wish& other) {
    is_fine = is_fine || other.is_fine;
    if (other.is_read) add(other.grid);
  }
};

std::vector<Wish> wishes_of(const Program& p) {
  std::vector<Wish> wishes(p.values.size());
  const auto wish = [&](ValueId id) -> Wish& { return wishes[static_cast<size_t>(id)]; };
  for (const program::Output& output : p.outputs) wish(output.value).add(Wish{true, true, {}});
  for (auto node = p.nodes.rbegin(); node != p.nodes.rend(); ++node) {
    if (is_product(node->op)) {
      wish(node->inputs[0]).add(Wish{true, true, grid_read_by(p, *node)});
      continue;
    }
    Wish behind;
    for (const ValueId id : node->outputs)
      if (!scales(node->op)) behind.add(wish(id));
    behind.is_read = true;
    behind.is_fine = behind.is_fine || (scales(node->op) && !is_average(node->op));
    for (const ValueId id : node->inputs)
      if (id != kNone && !is_constant(p, id)) wish(id).add(behind);
  }
  return wishes;
}

Result<Grid> grid_of(const IntegerPlan& plan, const Node& node, const Wish& wish, const program::SymbolSizes& sizes) {
  BITLAB_TRY(const Sums sums, sums_of(plan, node, sizes));
  if (wish.is_read && wish.grid.is_narrow()) return wish.grid;
  const double bound = sums.bound();
  if (bound == 0 || !std::isfinite(bound)) return Grid{};  // scaling_of() refuses what is not finite
  double unit = 0;                                         // of what is summed
  for (const double factor : sums.factors) unit = std::max(unit, std::fabs(factor));
  const double half = bound / static_cast<double>(Grid::kHalf);
  if (!wish.is_fine && half <= unit) return Grid{half, Grid::kHalf};
  return Grid{bound / static_cast<double>(Grid::kWide), Grid::kWide};
}

}  // namespace

Result<IntegerPlan> plan_integers(const Program& program, const program::SymbolSizes& sizes) {
  BITLAB_RETURN_IF_ERROR(check_all(program));
  IntegerPlan plan = absorb(program);
  const Program& p = plan.program;
  const std::vector<Wish> wishes = wishes_of(p);
  plan.grids.resize(p.values.size());
  const auto grid = [&](ValueId id) -> Grid& { return plan.grids[static_cast<size_t>(id)]; };
  for (const ValueId id : p.inputs) {
    const Wish& wish = wishes[static_cast<size_t>(id)];
    if (wish.is_read && !wish.grid.is_narrow())
      return make_error(
          ErrorCode::kUnsupported,
          "[c] a form in integers of inputs that layers with one static step read, got other readers (value={})",
          p.value(id).name);
    grid(id) = wish.is_read ? wish.grid : Grid{1, 127};
  }
  for (const Node& node : p.nodes) {
    if (scales(node.op)) {
      BITLAB_TRY(grid(node.output()), grid_of(plan, node, wishes[static_cast<size_t>(node.output())], sizes));
      continue;
    }
    if (node.op == Op::max_pool || node.op == Op::adaptive_max_pool) BITLAB_RETURN_IF_ERROR(check_maxima(p, node, sizes));
    for (const ValueId id : node.inputs)
      if (node.op == Op::cat && grid(id) != grid(node.inputs[0])) return no_integers(node, "parts with steps of their own");
    for (const ValueId id : node.outputs) grid(id) = grid(node.inputs[0]);
  }
  return plan;
}

}  // namespace bitlab::format::c
