#include "bitlab/nn/bit_conv2d.h"

#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {

BitConv2dImpl::BitConv2dImpl(const BitConv2dOptions& options_) : options(options_) { reset(); }

void BitConv2dImpl::reset() {
  const auto& kernel = *options.kernel_size();
  weight = register_parameter("weight", at::empty({options.out_channels(), options.in_channels(), kernel[0], kernel[1]}));
  bias = register_parameter("bias", options.bias() ? at::empty({options.out_channels()}) : at::Tensor(), options.bias());
  reset_parameters();
}

void BitConv2dImpl::reset_parameters() { initialize(weight, bias); }

void BitConv2dImpl::train(bool on) {
  Module::train(on);
  codes_.drop();
}

void BitConv2dImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitConv2d(" << options.in_channels() << ", " << options.out_channels()
         << ", kernel_size=" << options.kernel_size() << ", stride=" << options.stride() << ", padding=" << options.padding()
         << ", dilation=" << options.dilation() << ", bias=" << std::boolalpha << options.bias()
         << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitConv2dImpl::forward(const at::Tensor& x) {
  const BitQuantConfig& quant = options.quant();
  const ops::Conv2dWindow window{options.stride(), options.padding(), options.dilation()};
  if (!quant.enabled()) return at::conv2d(x, weight, bias, window.stride, window.padding, window.dilation);
  const auto spec = quant.weight_spec();
  if (runs_on_codes(*this, x))
    return ops::ternary_conv2d(x, codes_.of(weight, spec), optional(bias), options.kernel_size(), window, quant.activation);
  return ops::bit_conv2d(x, weight, optional(bias), window, spec, quant.activation);
}

}  // namespace bitlab::nn
