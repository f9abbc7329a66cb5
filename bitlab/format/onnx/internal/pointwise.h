// Single elements of a program's values, at sizes that are chosen: what a mask or a place says, without running anything.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "bitlab/format/onnx/internal/makers.h"
#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

// An element of a constant, by its place in row-major order; nothing for other values, and for integer weights.
std::optional<double> constant_element(const program::Program& p, program::ValueId id, int64_t place);

class Pointwise {
 public:
  // `stops`: values that are not looked behind.
  Pointwise(const program::Program& program, const program::SymbolSizes& sizes, std::set<program::ValueId> stops = {});

  // The element that one of a value is a copy of, over all that moves, repeats and cuts, and with `scaled` over products with a number, too, of which
  // `factor` is the product. Of a place that is none, the value is kNone.
  struct Origin {
    program::ValueId value = program::kNone;
    program::Sizes at;
    double factor = 1;
  };
  Origin origin(program::ValueId id, program::Sizes at, bool scaled = false);
  // The element; nothing where it depends on inputs, or on an operation that masks and places are not made of.
  std::optional<double> number(program::ValueId id, const program::Sizes& at);
  // The same of a place in what the value broadcasts to.
  std::optional<double> broadcast_number(program::ValueId id, const program::Sizes& at);

 private:
  program::Sizes sizes_of(program::ValueId id) const { return shape_at(p_.value(id).shape, sizes_); }
  bool step_back(const program::Node& node, Origin& origin);
  bool step_over_scale(const program::Node& node, Origin& origin);
  std::optional<double> of_constant(program::ValueId id, const program::Sizes& at);
  std::optional<double> reduced(const program::Node& node, program::Sizes at);
  std::optional<double> computed(const program::Node& node, const program::Sizes& at);

  const program::Program& p_;
  program::SymbolSizes sizes_;
  std::set<program::ValueId> stops_;
  int64_t left_ = 0;  // nodes that may be walked over; behind them nothing is known
  int depth_ = 0;
  Makers makers_;
  std::map<program::ValueId, std::optional<double>> alone_;  // values of one element
};

}  // namespace bitlab::format::onnx
