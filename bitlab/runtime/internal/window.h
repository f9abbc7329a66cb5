// Geometry of a convolution or pooling node at one size of each symbol.
#pragma once

#include <algorithm>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/program/program.h"

namespace bitlab::runtime {

// Without channels' groups and transposition. `kernel` is the window's size; a missing `dilation` is 1.
inline kernels::ConvGeometry window_geometry(const program::Program& p, const program::Node& node,
                                             const program::SymbolSizes& sizes_of_symbols, const program::Sizes& kernel) {
  const std::vector<int64_t> x = shape_at(p.value(node.inputs[0]).shape, sizes_of_symbols);
  kernels::ConvGeometry g{.batch = x[0], .channels = x[1]};
  const auto take = [](std::span<const int64_t> sizes, kernels::ConvGeometry::Sizes& to) {
    std::copy(sizes.begin(), sizes.end(), to.end() - static_cast<int64_t>(sizes.size()));
  };
  take(std::span(x).subspan(2), g.input);
  take(kernel, g.kernel);
  take(node.attribute<program::Sizes>("stride"), g.stride);
  take(node.attribute<program::Sizes>("padding"), g.padding);
  if (node.attributes.contains("dilation")) take(node.attribute<program::Sizes>("dilation"), g.dilation);
  return g;
}

// Of a convolution, whose weight is [rows, kernel..., channels / groups].
inline kernels::ConvGeometry conv_geometry(const program::Program& p, const program::Node& node,
                                           const program::SymbolSizes& sizes) {
  const std::vector<int64_t> weight =
      shape_at(p.value(node.inputs[program::input_of(program::Op::conv, "weight")]).shape, sizes);
  kernels::ConvGeometry g = window_geometry(p, node, sizes, {weight.begin() + 1, weight.end() - 1});
  g.groups = node.attribute<int64_t>("groups");
  g.transposed = node.attribute<int64_t>("transposed") == 1;
  const auto& extra = node.attribute<program::Sizes>("output_padding");
  std::copy(extra.begin(), extra.end(), g.output_padding.end() - static_cast<int64_t>(extra.size()));
  return g;
}

}  // namespace bitlab::runtime
