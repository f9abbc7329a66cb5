// For tests of capture and deployment.
#pragma once

#include <cstring>

#include <ATen/ops/from_blob.h>
#include <torch/nn/module.h>

#include "bitlab/deploy/capture.h"
#include "bitlab/deploy/tensor_view.h"

namespace bitlab::deploy::test {

inline at::Tensor run_program(const program::Program& program, const at::Tensor& x) {
  auto session = runtime::Session::create(runtime::Model::create(program).value()).value();
  const runtime::TensorView view = view_of(x);
  const auto outputs = session->run({&view, 1}).value();
  return at::from_blob(const_cast<float*>(outputs[0].data), outputs[0].shape).clone();
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

// A module made of a function, for the cases below.
struct Net : torch::nn::Module {
  std::function<at::Tensor(Net&, const at::Tensor&)> body;
  at::Tensor forward(const at::Tensor& x) { return body(*this, x); }
};

inline Result<program::Program> capture_net(Net& net, const at::Tensor& example) {
  return capture(
      net, [&](const at::Tensor& x) { return net.forward(x); }, example);
}

}  // namespace bitlab::deploy::test
