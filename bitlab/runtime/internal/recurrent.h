// What nodes of recurrent layers have in common.
#pragma once

#include "bitlab/kernels/recurrent/cuda/recurrent.h"
#include "bitlab/kernels/recurrent/recurrent.h"
#include "bitlab/runtime/internal/device_step.h"

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

// On a device: the product of the hidden states, a step of its own that reads one input, and the cell behind it, token by token.
inline DeviceStep device_recurrent(const kernels::RecurrentArgs& layer, const DeviceStep& product, size_t h0) {
  if (!product.run) return {};
  const bool is_lstm = layer.cell == kernels::RecurrentCell::kLstm;
  const int64_t states = layer.batch * layer.hidden, bytes = states * int64_t{sizeof(float)},
                gates = round_up(product.scratch_bytes, kDeviceAlignment);
  const auto run = [=](const DeviceBuffers& b) {
    kernels::CudaCell cell{};
    cell.is_lstm = is_lstm, cell.tokens = layer.tokens, cell.hidden = layer.hidden, cell.count = states;
    cell.x = b.input(0), cell.y = b.output(0), cell.h = b.output(1);
    if (is_lstm) cell.c = b.output(2);
    auto* u = reinterpret_cast<float*>(b.scratch + gates);
    cell.u = u;
    const auto begin = [&](const void* from, float* state) {
      if (state == nullptr) return static_cast<const char*>(nullptr);
      return from == nullptr ? b.plugin->zero(state, bytes, b.stream) : b.plugin->copy(state, from, bytes, b.stream);
    };
    const char* wrong = begin(b.inputs[h0], cell.h);
    if (wrong == nullptr) wrong = begin(b.inputs[h0 + 1], cell.c);
    DeviceBuffers own = b;
    const std::array<const void*, 1> inputs{cell.h};
    const std::array<void*, 1> outputs{u};
    own.inputs = inputs, own.outputs = outputs;
    for (int64_t step = 0; step < layer.tokens && wrong == nullptr; ++step) {
      cell.t = layer.reverse ? layer.tokens - 1 - step : step;
      wrong = product.run(own);
      if (wrong == nullptr) wrong = b.plugin->cell(&cell, b.stream);
    }
    return wrong;
  };
  return DeviceStep{run, gates + gates_of(layer.cell) * bytes, product.kernels + " recurrent:cuda"};
}

}  // namespace bitlab::runtime
