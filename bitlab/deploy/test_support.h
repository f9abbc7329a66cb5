// For tests of capture and deployment.
#pragma once

#include <cstring>

#include <torch/nn/module.h>

#include "bitlab/deploy/capture.h"
#include "bitlab/deploy/internal/tensor_view.h"

namespace bitlab::deploy::test {

// The only output.
inline at::Tensor run_program(const program::Program& program, const NamedTensors& x) {
  return deploy::run(program, x).value()[0].second;
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

// What a program promises of its results.
enum class Promise { kExact, kBounded };

// Samples of networks of one tensor.
inline std::vector<NamedTensors> named(const std::vector<at::Tensor>& samples) { return {samples.begin(), samples.end()}; }

// A module made of a function, for the cases below.
struct Net : torch::nn::Module {
  std::function<at::Tensor(Net&, const at::Tensor&)> body;
  at::Tensor forward(const at::Tensor& x) { return body(*this, x); }
};

inline Result<program::Program> capture_net(Net& net, const at::Tensor& example) { return capture(net, example); }

}  // namespace bitlab::deploy::test
