#include "bitlab/nn/bit_linear.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/nn/init.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {

BitLinearImpl::BitLinearImpl(const BitLinearOptions& options_) : options(options_) { reset(); }

void BitLinearImpl::reset() {
  weight = register_parameter("weight", at::empty({options.out_features(), options.in_features()}));
  bias = register_parameter("bias", options.bias() ? at::empty({options.out_features()}) : at::Tensor(), options.bias());
  quantizer.reset(*this, options.quant(), weight, nullptr);
  reset_parameters();
}

void BitLinearImpl::reset_parameters() {
  initialize(weight, bias);
  quantizer.initialize_scales(weight);
}

void BitLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitLinear(in_features=" << options.in_features() << ", out_features=" << options.out_features()
         << ", bias=" << std::boolalpha << options.bias() << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitLinearImpl::forward(const at::Tensor& x) {
  const at::Tensor read = quantizer.input(x);
  return quantizer.is_active() ? quantizer.forward(*this, read, weight, bias) : product(read, weight, bias);
}

at::Tensor BitLinearImpl::product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const {
  return at::linear(x, w, optional(b));
}

void BitLinearImpl::freeze(const FrozenWeight& frozen) {
  quantizer.freeze(*this, options.quant(), weight, bias, frozen);
  options.bias(true);
}

}  // namespace bitlab::nn
