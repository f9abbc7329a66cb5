#include "bitlab/nn/bit_norm.h"

#include <ATen/ops/group_norm.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/zeros.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {
namespace {

// What a norm multiplies with: the weight's value, as one row.
template <class Layer>
std::optional<at::Tensor> value_of(const Layer& layer) {
  const at::Tensor& weight = layer.weight;
  if (!weight.defined() || !layer.options.quant().enabled()) return optional(weight);
  return layer.quantizer.value(layer, weight.flatten()).view(weight.sizes());
}

void reset_quantizer(Quantizer& quantizer, torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight) {
  if (!weight.defined()) return;
  const at::Tensor row = weight.detach().reshape({1, -1});
  quantizer.reset(layer, quant, row, nullptr, Quantizer::Use::kValue);
  quantizer.initialize_scales(row, /*around_zero=*/false);
}

}  // namespace

BitLayerNormImpl::BitLayerNormImpl(BitLayerNormOptions options_) : options(std::move(options_)) { reset(); }

void BitLayerNormImpl::reset() {
  const bool affine = options.elementwise_affine(), biased = affine && options.bias();
  weight = register_parameter("weight", affine ? at::ones(options.normalized_shape()) : at::Tensor(), affine);
  bias = register_parameter("bias", biased ? at::zeros(options.normalized_shape()) : at::Tensor(), biased);
  reset_quantizer(quantizer, *this, options.quant(), weight);
}

void BitLayerNormImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitLayerNorm(" << at::IntArrayRef(options.normalized_shape()) << ", eps=" << options.eps()
         << ", elementwise_affine=" << std::boolalpha << options.elementwise_affine()
         << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitLayerNormImpl::forward(const at::Tensor& x) {
  return at::layer_norm(x, options.normalized_shape(), value_of(*this), optional(bias), options.eps());
}

BitRMSNormImpl::BitRMSNormImpl(BitRMSNormOptions options_) : options(std::move(options_)) { reset(); }

void BitRMSNormImpl::reset() {
  const bool affine = options.elementwise_affine();
  weight = register_parameter("weight", affine ? at::ones(options.normalized_shape()) : at::Tensor(), affine);
  reset_quantizer(quantizer, *this, options.quant(), weight);
}

void BitRMSNormImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitRMSNorm(" << at::IntArrayRef(options.normalized_shape()) << ", eps=" << options.eps()
         << ", elementwise_affine=" << std::boolalpha << options.elementwise_affine()
         << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitRMSNormImpl::forward(const at::Tensor& x) {
  return at::rms_norm(x, options.normalized_shape(), value_of(*this), options.eps());
}

BitGroupNormImpl::BitGroupNormImpl(BitGroupNormOptions options_) : options(std::move(options_)) { reset(); }

void BitGroupNormImpl::reset() {
  if (options.num_groups() < 1 || options.num_channels() % options.num_groups() != 0)
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[BitGroupNorm] channels in {} groups, got {}",
                               options.num_groups(), options.num_channels()));
  const bool affine = options.affine();
  weight = register_parameter("weight", affine ? at::ones({options.num_channels()}) : at::Tensor(), affine);
  bias = register_parameter("bias", affine ? at::zeros({options.num_channels()}) : at::Tensor(), affine);
  reset_quantizer(quantizer, *this, options.quant(), weight);
}

void BitGroupNormImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitGroupNorm(" << options.num_groups() << ", " << options.num_channels()
         << ", eps=" << options.eps() << ", affine=" << std::boolalpha << options.affine()
         << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitGroupNormImpl::forward(const at::Tensor& x) {
  return at::group_norm(x, options.num_groups(), value_of(*this), optional(bias), options.eps());
}

std::string_view name(NormKind kind) { return kind == NormKind::kLayer ? "layer" : "rms"; }

torch::nn::AnyModule make_norm(const BitNormOptions& options) {
  const std::vector<int64_t> shape{options.size()};
  if (options.kind() == NormKind::kRms)
    return torch::nn::AnyModule(BitRMSNorm(BitRMSNormOptions(shape).eps(options.eps()).quant(options.quant())));
  return torch::nn::AnyModule(
      BitLayerNorm(BitLayerNormOptions(shape).eps(options.eps()).bias(options.bias()).quant(options.quant())));
}

}  // namespace bitlab::nn
