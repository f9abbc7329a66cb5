#include "bitlab/nn/bit_conv.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose1d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pad.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {
namespace {

constexpr std::array<std::string_view, 4> kPaddingModes{"constant", "reflect", "replicate", "circular"};

template <size_t D>
std::vector<int64_t> vector(const torch::ExpandingArray<D>& sizes) {
  return {sizes->begin(), sizes->end()};
}

bool is_zero(const std::vector<int64_t>& sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [](int64_t v) { return v == 0; });
}

template <size_t D>
void check(const BitConvOptions<D>& o, bool transposed) {
  const auto refuse = [](std::string text) { throw Exception(Error{ErrorCode::kInvalidArgument, "[BitConv] " + text}); };
  if (o.in_channels() < 1 || o.out_channels() < 1 || o.groups() < 1 || o.in_channels() % o.groups() != 0 ||
      o.out_channels() % o.groups() != 0)
    refuse(fmt::format("channels in {} groups, got {} to {}", o.groups(), o.in_channels(), o.out_channels()));
  if (!transposed && !is_zero(vector(o.output_padding())))
    refuse("output_padding of transposed convolutions alone, got one");
  if (transposed && !std::holds_alternative<torch::enumtype::kZeros>(o.padding_mode()))
    refuse(fmt::format("zeros around the input of a transposed convolution, got padding_mode {}",
                       kPaddingModes.at(o.padding_mode().index())));
  if (transposed && !std::holds_alternative<torch::ExpandingArray<D>>(o.padding()))
    refuse("padding of a transposed convolution as numbers, got 'same' or 'valid'");
}

// LibTorch's own operator of the layer.
template <size_t D, bool kTransposed>
at::Tensor float_convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             const ops::ConvWindow& w) {
  if constexpr (kTransposed) {
    if constexpr (D == 1)
      return at::conv_transpose1d(x, weight, bias, w.stride, w.padding, w.output_padding, w.groups, w.dilation);
    else if constexpr (D == 2)
      return at::conv_transpose2d(x, weight, bias, w.stride, w.padding, w.output_padding, w.groups, w.dilation);
    else
      return at::conv_transpose3d(x, weight, bias, w.stride, w.padding, w.output_padding, w.groups, w.dilation);
  } else if constexpr (D == 1) {
    return at::conv1d(x, weight, bias, w.stride, w.padding, w.dilation, w.groups);
  } else if constexpr (D == 2) {
    return at::conv2d(x, weight, bias, w.stride, w.padding, w.dilation, w.groups);
  } else {
    return at::conv3d(x, weight, bias, w.stride, w.padding, w.dilation, w.groups);
  }
}

}  // namespace

template <size_t D, bool kTransposed, class Derived>
bool BitConvNd<D, kTransposed, Derived>::has_zeros() const {
  return std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode());
}

template <size_t D, bool kTransposed, class Derived>
ops::SamePadding BitConvNd<D, kTransposed, Derived>::margins() const {
  const std::vector<int64_t> none(D, 0);
  if (std::holds_alternative<torch::enumtype::kValid>(options.padding())) return {none, none};
  if (const auto* sizes = std::get_if<torch::ExpandingArray<D>>(&options.padding())) return {vector(*sizes), none};
  return ops::same_padding(vector(options.kernel_size()), vector(options.stride()), vector(options.dilation()));
}

template <size_t D, bool kTransposed, class Derived>
ops::ConvWindow BitConvNd<D, kTransposed, Derived>::window() const {
  return {vector(options.stride()),         has_zeros() ? margins().both : std::vector<int64_t>(D, 0),
          vector(options.dilation()),       kTransposed,
          vector(options.output_padding()), options.groups()};
}

template <size_t D, bool kTransposed, class Derived>
void BitConvNd<D, kTransposed, Derived>::reset() {
  check(options, kTransposed);
  margins();  // refuses strides
  std::vector<int64_t> shape{options.out_channels(), options.in_channels() / options.groups()};
  if (kTransposed) shape = {options.in_channels(), options.out_channels() / options.groups()};
  shape.insert(shape.end(), options.kernel_size()->begin(), options.kernel_size()->end());
  weight = this->register_parameter("weight", at::empty(shape));
  bias =
      this->register_parameter("bias", options.bias() ? at::empty({options.out_channels()}) : at::Tensor(), options.bias());
  const ops::ConvWindow sizes = window();
  this->quantizer.reset(*this, options.quant(), weight, &sizes);
  reset_parameters();
}

template <size_t D, bool kTransposed, class Derived>
void BitConvNd<D, kTransposed, Derived>::reset_parameters() {
  initialize(weight, bias);
  this->quantizer.initialize_scales(weight);
}

template <size_t D, bool kTransposed, class Derived>
void BitConvNd<D, kTransposed, Derived>::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitConv" << (kTransposed ? "Transpose" : "") << D << "d(" << options.in_channels() << ", "
         << options.out_channels() << ", kernel_size=" << options.kernel_size() << ", stride=" << options.stride()
         << ", padding=";
  std::visit(c10::overloaded([&](const torch::ExpandingArray<D>& sizes) { stream << sizes; },
                             [&](torch::enumtype::kValid) { stream << "valid"; },
                             [&](torch::enumtype::kSame) { stream << "same"; }),
             options.padding());
  stream << ", dilation=" << options.dilation();
  if (options.groups() != 1) stream << ", groups=" << options.groups();
  if (kTransposed) stream << ", output_padding=" << options.output_padding();
  if (!has_zeros()) stream << ", padding_mode=" << kPaddingModes.at(options.padding_mode().index());
  stream << ", bias=" << std::boolalpha << options.bias() << ", quant=" << describe(options.quant()) << ')';
}

template <size_t D, bool kTransposed, class Derived>
at::Tensor BitConvNd<D, kTransposed, Derived>::forward(const at::Tensor& x) {
  auto [front, behind] = margins();
  for (size_t i = 0; i < D && !has_zeros(); ++i) behind[i] += front[i];
  if (has_zeros()) front.assign(D, 0);  // the operators add what is on both sides
  const std::vector<int64_t> sides = ops::sides(front, behind);
  const at::Tensor padded = is_zero(sides) ? x : at::pad(x, sides, kPaddingModes.at(options.padding_mode().index()));
  const at::Tensor read = this->quantizer.input(padded);
  return this->quantizer.is_active() ? this->quantizer.forward(*this, read, weight, bias) : product(read, weight, bias);
}

template <size_t D, bool kTransposed, class Derived>
at::Tensor BitConvNd<D, kTransposed, Derived>::product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const {
  return float_convolution<D, kTransposed>(x, w, optional(b), window());
}

template <size_t D, bool kTransposed, class Derived>
void BitConvNd<D, kTransposed, Derived>::freeze(const FrozenWeight& frozen) {
  this->quantizer.freeze(*this, options.quant(), weight, bias, frozen);
  options.bias(true);
}

template class BitConvNd<1, false, BitConv1dImpl>;
template class BitConvNd<2, false, BitConv2dImpl>;
template class BitConvNd<3, false, BitConv3dImpl>;
template class BitConvNd<1, true, BitConvTranspose1dImpl>;
template class BitConvNd<2, true, BitConvTranspose2dImpl>;
template class BitConvNd<3, true, BitConvTranspose3dImpl>;

}  // namespace bitlab::nn
