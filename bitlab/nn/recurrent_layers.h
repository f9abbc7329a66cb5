// The layers and directions of an LSTM or GRU with ternary weights, wherever the weights are.
#pragma once

#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/stack.h>

#include "bitlab/ops/ops.h"

namespace bitlab::nn {

struct RecurrentLayers {
  ops::RecurrentCell cell = ops::RecurrentCell::kLstm;
  int64_t layers = 1;
  bool bidirectional = false, batch_first = false;
  double dropout = 0;        // of what the layers but the last one give; 0 in eval
  at::Tensor batch_sizes{};  // of a packed sequence (ops::RecurrentInputs): x and y are [sum, ...]
};

// y [B, T, D H] under batch_first, else [T, B, D H]; h, and of an LSTM c, [L D, B, H].
struct RecurrentOutputs {
  at::Tensor y, h, c;
};

// Of x [B, T, inputs] under batch_first, else [T, B, inputs], and the states to begin with [L D, B, H], which may be undefined: zeros. With i the place of
// a layer and direction, those of layer 0 first:
//   gates(i, x)        its product of inputs, float32 [B, T, gates H]
//   steps(i, inputs)   what ops::bit_recurrent makes of these RecurrentInputs
template <class Gates, class Steps>
RecurrentOutputs run_recurrent(const RecurrentLayers& r, const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0,
                               const Gates& gates, const Steps& steps) {
  const auto state = [](const at::Tensor& states, int64_t i) {
    return states.defined() ? states.select(0, i) : at::Tensor();
  };
  const int64_t directions = r.bidirectional ? 2 : 1;
  const bool is_in_order = r.batch_first || r.batch_sizes.defined();
  at::Tensor read = is_in_order ? x : x.transpose(0, 1);
  std::vector<at::Tensor> h_n, c_n;
  for (int64_t layer = 0; layer < r.layers; ++layer) {
    std::vector<at::Tensor> outputs;
    for (int64_t direction = 0; direction < directions; ++direction) {
      const int64_t i = layer * directions + direction;
      const ops::RecurrentInputs inputs{r.cell, gates(i, read), state(h0, i), state(c0, i), direction == 1, r.batch_sizes};
      const ops::RecurrentStates states = steps(i, inputs);
      outputs.push_back(states.y);
      h_n.push_back(states.h_n);
      if (states.c_n.defined()) c_n.push_back(states.c_n);
    }
    read = directions == 1 ? outputs[0] : at::cat(outputs, -1);
    if (r.dropout > 0 && layer + 1 < r.layers) read = at::dropout(read, r.dropout, true);
  }
  return {is_in_order ? read : read.transpose(0, 1), at::stack(h_n, 0), c_n.empty() ? at::Tensor() : at::stack(c_n, 0)};
}

}  // namespace bitlab::nn
