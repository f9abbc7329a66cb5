// A network in integers (docs/decisions/0041): which of its values lie in memory as int8 and which as int32, what a unit of each stands for, and which nodes
// others absorb.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::format::c {

// The inputs of both kinds of products.
inline constexpr size_t kWeightInput = program::input_of(program::Op::ternary_conv, "weight"),
                        kBiasInput = program::input_of(program::Op::ternary_conv, "bias"),
                        kStepInput = program::input_of(program::Op::ternary_conv, "act_scale");
static_assert(kWeightInput == program::input_of(program::Op::ternary_linear, "weight") &&
              kBiasInput == program::input_of(program::Op::ternary_linear, "bias") &&
              kStepInput == program::input_of(program::Op::ternary_linear, "act_scale"));

// Error: Unsupported.
Error no_integers(const program::Node& node, std::string_view why);

// x = q step, |q| <= limit. 127 or 7, of values that layers with this static step alone read: they lie in memory as int8. Of others: as int32, or,
// where an average alone reads them, as int16.
struct Grid {
  static constexpr int64_t kWide = int64_t{1} << 30, kHalf = (int64_t{1} << 15) - 1;
  double step = 1;
  int64_t limit = kWide;

  bool is_narrow() const { return limit < kHalf; }
  int64_t bytes() const { return is_narrow() ? 1 : limit == kHalf ? 2 : 4; }
  // The most that |q| is, -128 from a caller included.
  double most() const { return is_narrow() ? 128.0 : static_cast<double>(limit); }
  // The nearest q, halves up, of any number.
  int64_t nearest(double x) const;
  bool operator==(const Grid&) const = default;
};

// min(max(x, low), high).
struct Clamp {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  void at_least(double bound) { low = std::max(low, bound), high = std::max(high, bound); }
  void at_most(double bound) { low = std::min(low, bound), high = std::min(high, bound); }
  double operator()(double x) const { return std::min(std::max(x, low), high); }
};

// What a node makes of integers: in row n (an output channel) sum over g of acc[g] factors[n, g] + offsets[n], clamped. A list may have one row for all.
struct Sums {
  std::vector<double> factors;  // [rows, parts]: groups of weights, the two signs, the values of an addition, or one
  std::vector<double> most;     // [rows, parts]: of |acc|
  std::vector<double> offsets;  // [rows], or none
  size_t parts = 1;
  Clamp clamp{};

  size_t rows() const { return std::max({factors.size() / parts, most.size() / parts, offsets.size()}); }
  double factor(size_t row, size_t part) const { return factors[factors.size() == parts ? part : row * parts + part]; }
  double most_of(size_t row, size_t part) const { return most[most.size() == parts ? part : row * parts + part]; }
  double offset(size_t row) const { return offsets.empty() ? 0 : offsets[offsets.size() == 1 ? 0 : row]; }
  // The largest absolute value of a result.
  double bound() const;
};

// q = clamp(floor((sum of acc factors + offset unit) / 2^shift + 1/2), low, high), inside int64 for all acc that there are.
struct Scaling {
  std::vector<int32_t> factors, offsets;
  bool has_rows = false;  // factors of its own for each
  int64_t unit = 1, shift = 1, low = 0, high = 0;
};
// Sums on a grid. Error: Unsupported, naming the node, where no factors of 31 bits stand for them.
Result<Scaling> scaling_of(const program::Node& node, const Sums& sums, const Grid& grid);

struct IntegerPlan {
  program::Program program;  // nodes that follow a product absorbed by it: a batch norm, clamps
  std::vector<Grid> grids;   // of its values
  std::map<std::string, std::vector<program::Node>> absorbed;  // by the node that does it, in their order
};

// The sums of a node that scales, with what it absorbs. Error: Unsupported, naming it.
Result<Sums> sums_of(const IntegerPlan& plan, const program::Node& node, const program::SymbolSizes& sizes);

// The clamp that a node is; nothing of others.
std::optional<Clamp> clamp_of(const program::Program& program, const program::Node& node);

// The grid on which a layer with static activations reads its input.
Grid grid_read_by(const program::Program& program, const program::Node& node);

// Error: Unsupported, naming what has no form in integers and why.
Result<IntegerPlan> plan_integers(const program::Program& program, const program::SymbolSizes& sizes);

}  // namespace bitlab::format::c
