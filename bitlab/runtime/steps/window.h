// Geometry of a convolution or pooling node at one batch size.
#pragma once

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

// `kernel` is the window's size; `dilation` is {1, 1} for a node without that attribute.
inline kernels::ConvGeometry window_geometry(const StepContext& context, program::Pair kernel, program::Pair dilation) {
  const std::vector<int64_t> x = context.input_shape(0);
  const auto stride = context.node.attribute<program::Pair>("stride"),
             padding = context.node.attribute<program::Pair>("padding");
  return {.batch = x[0],
          .channels = x[1],
          .input = {1, x[2], x[3]},
          .kernel = {1, kernel[0], kernel[1]},
          .stride = {1, stride[0], stride[1]},
          .padding = {0, padding[0], padding[1]},
          .dilation = {1, dilation[0], dilation[1]}};
}

// Of a convolution, whose weight is [rows, kernel_h, kernel_w, channels].
inline kernels::ConvGeometry conv_geometry(const StepContext& context) {
  const std::vector<int64_t> weight = context.input_shape(1);
  return window_geometry(context, {weight[1], weight[2]}, context.node.attribute<program::Pair>("dilation"));
}

}  // namespace bitlab::runtime
