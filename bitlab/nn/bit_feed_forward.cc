#include "bitlab/nn/bit_feed_forward.h"

#include <array>

#include <ATen/ops/dropout.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {
namespace {

at::Tensor squared_relu(const at::Tensor& x) {
  const at::Tensor y = at::relu(x);
  return y * y;
}

// f of the hidden values, or of the gate's.
at::Tensor activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kSquaredRelu:
    case Activation::kSquaredReluGlu:
      return squared_relu(x);
    case Activation::kSilu:
    case Activation::kSwiGlu:
      return at::silu(x);
  }
  throw Exception(make_error(ErrorCode::kInternal, "[BitFeedForward] an activation, got {}", static_cast<int>(activation)));
}

}  // namespace

std::string_view name(Activation activation) {
  constexpr std::array<std::string_view, 7> kNames{"gelu",   "gelu_tanh",       "relu", "squared_relu", "silu",
                                                   "swiglu", "squared_relu_glu"};
  return kNames.at(static_cast<size_t>(activation));
}

BitFeedForwardImpl::BitFeedForwardImpl(const BitFeedForwardOptions& options_) : options(options_) { reset(); }

void BitFeedForwardImpl::reset() {
  if (options.dim() < 1 || options.hidden_dim() < 0)
    throw Exception(make_error(ErrorCode::kInvalidArgument,
                               "[BitFeedForward] dim of 1 or more and hidden_dim of 0 or more, got {} and {}", options.dim(),
                               options.hidden_dim()));
  const auto projection = [&](const char* name, int64_t in, int64_t out) {
    return register_module(name, BitLinear(BitLinearOptions(in, out).bias(options.bias()).quant(options.quant())));
  };
  up_proj = projection("up_proj", options.dim(), hidden_dim());
  if (is_gated(options.activation())) gate_proj = projection("gate_proj", options.dim(), hidden_dim());
  down_proj = projection("down_proj", hidden_dim(), options.dim());
  if (!options.sub_norm()) return;
  sub_norm = make_norm(BitNormOptions(hidden_dim()).kind(*options.sub_norm()).eps(options.norm_eps()).bias(options.bias()));
  register_module("sub_norm", sub_norm.ptr());
}

void BitFeedForwardImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitFeedForward(" << options.dim() << ", hidden_dim=" << hidden_dim()
         << ", activation=" << nn::name(options.activation());
  if (options.dropout() != 0) stream << ", dropout=" << options.dropout();
  stream << ", bias=" << std::boolalpha << options.bias() << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitFeedForwardImpl::forward(const at::Tensor& x) {
  const at::Tensor up = up_proj->forward(x);
  at::Tensor hidden =
      gate_proj.is_empty() ? activate(options.activation(), up) : activate(options.activation(), gate_proj->forward(x)) * up;
  hidden = at::dropout(hidden, options.dropout(), is_training());
  if (!sub_norm.is_empty()) hidden = sub_norm.forward(hidden);
  return down_proj->forward(hidden);
}

}  // namespace bitlab::nn
