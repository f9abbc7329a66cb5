// What nodes of recurrent layers have in common.
#pragma once

#include "bitlab/kernels/recurrent/recurrent.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

// All but where its values lie.
inline Result<kernels::RecurrentArgs> recurrent_layer(const StepContext& context) {
  const std::vector<int64_t> y = context.output_shape();
  kernels::RecurrentArgs layer{
      .batch = y[0], .tokens = y[1], .hidden = y[2], .reverse = context.node.attribute<int64_t>("reverse") == 1};
  BITLAB_TRY(layer.cell, kernels::parse_recurrent_cell(context.node.attribute<std::string>("cell")));
  return layer;
}

// In one run. h0: the place of that input, which c0 follows.
inline kernels::RecurrentArgs bound(kernels::RecurrentArgs layer, const StepBuffers& b, size_t h0) {
  layer.x = b.input(0), layer.h0 = b.input(h0), layer.c0 = b.input(h0 + 1);
  layer.y = b.output(0), layer.h_n = b.output(1);
  if (layer.cell == kernels::RecurrentCell::kLstm) layer.c_n = b.output(2);
  return layer;
}

}  // namespace bitlab::runtime
