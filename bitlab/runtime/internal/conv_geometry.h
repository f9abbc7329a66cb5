// Geometry of a convolution at one size of each symbol.
#pragma once

#include <algorithm>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/program/program.h"

namespace bitlab::runtime {

inline kernels::ConvGeometry conv_geometry(const program::Program& p, const program::Node& node,
                                           const program::SymbolSizes& sizes) {
  const std::vector<int64_t> x = shape_at(p.value(node.inputs[0]).shape, sizes);
  // [rows, kernel..., channels / groups]
  const std::vector<int64_t> weight =
      shape_at(p.value(node.inputs[program::input_of(program::Op::conv, "weight")]).shape, sizes);
  kernels::ConvGeometry g{.batch = x[0], .channels = x[1]};
  const auto take = [](std::span<const int64_t> numbers, kernels::ConvGeometry::Sizes& to) {
    std::copy(numbers.begin(), numbers.end(), to.end() - static_cast<int64_t>(numbers.size()));
  };
  take(std::span(x).subspan(2), g.input);
  take(std::span(weight).subspan(1, weight.size() - 2), g.kernel);
  take(node.attribute<program::Sizes>("stride"), g.stride);
  take(node.attribute<program::Sizes>("padding"), g.padding);
  take(node.attribute<program::Sizes>("dilation"), g.dilation);
  take(node.attribute<program::Sizes>("output_padding"), g.output_padding);
  g.groups = node.attribute<int64_t>("groups");
  g.transposed = node.attribute<int64_t>("transposed") == 1;
  return g;
}

}  // namespace bitlab::runtime
