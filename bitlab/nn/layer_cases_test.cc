// The cases of layers.def: each layer in several shapes and choices, beside LibTorch's own.
#include <torch/torch.h>

#include "bitlab/nn/bit_batch_norm.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"
#include "bitlab/nn/bit_recurrent.h"
#include "bitlab/nn/bit_transformer.h"
#include "bitlab/nn/test_support.h"

namespace bitlab::nn {
namespace {

namespace t = torch::nn;

// Weights and biases that are not ones and zeros; learned scales stay.
template <class Layer>
Layer randomized(Layer layer) {
  for (auto& parameter : layer->named_parameters())
    if (parameter.key() == "weight" || parameter.key() == "bias") t::init::normal_(parameter.value());
  return layer;
}

// A group of scales lies within one tap: it takes that many channels, and no groups of filters.
struct Channels {
  explicit Channels(const BitQuantConfig& quant) {
    if (quant.enabled() && quant.granularity == ternary::Granularity::kGroup) in = quant.group_size, groups = 1;
  }
  int64_t in = 6, out = 9, groups = 3;
};

// LibTorch has no module of it.
struct RmsNormImpl : t::Cloneable<RmsNormImpl> {
  explicit RmsNormImpl(int64_t size) : size_(size) { reset(); }
  void reset() override { weight = register_parameter("weight", torch::ones({size_})); }
  at::Tensor forward(const at::Tensor& x) { return x / (x.square().mean(-1, true) + 1e-6).sqrt() * weight; }
  int64_t size_;
  at::Tensor weight;
};
TORCH_MODULE(RmsNorm);

template <class Ours, class Twin>
std::vector<LayerCase> batch_norms(int64_t channels, const std::vector<at::Tensor>& inputs) {
  std::vector<LayerCase> cases;
  for (const at::Tensor& x : inputs)
    for (bool affine : {true, false})
      for (bool tracked : {true, false})
        for (std::optional<double> momentum : {std::optional<double>(0.3), std::optional<double>()}) {
          const auto options =
              BitBatchNormOptions(channels).eps(1e-3).momentum(momentum).affine(affine).track_running_stats(tracked);
          t::BatchNormOptions twin(channels);
          twin.eps(1e-3).momentum(momentum).affine(affine).track_running_stats(tracked);
          cases.push_back(layer_case(randomized(Ours(options)), Twin(twin), x));
          cases.back().ternary = cases.back().same_bits = false;
        }
  return cases;
}

// Sequence first, as LibTorch's attention wants it.
template <class Twin, class... Rest>
at::Tensor sequence_first(torch::nn::Module& module, const at::Tensor& x, const Rest&... rest) {
  return dynamic_cast<Twin&>(module).forward(x.transpose(0, 1), rest...).transpose(0, 1);
}

Renames block_renames(bool decoder) {
  return {{"linear1", "feed_forward.up_proj"}, {"linear2", "feed_forward.down_proj"},
          {"norm1", "self_attn_norm"},         {"norm2", decoder ? "cross_attn_norm" : "feed_forward_norm"},
          {"norm3", "feed_forward_norm"},      {"multihead_attn", "cross_attn"}};
}

template <class Twin, class Options>
LayerCase block_case(const BitTransformerBlockOptions& options, const at::Tensor& memory, const at::Tensor& x) {
  Options twin(options.dim(), options.num_heads());
  twin.dim_feedforward(options.hidden_dim()).dropout(0);
  if (options.activation() == Activation::kGelu) twin.activation(torch::kGELU);
  LayerCase c{BitTransformerBlock(options).ptr(), Twin(twin).ptr(), {}, {}, x, block_renames(memory.defined())};
  c.forward = [memory](torch::nn::Module& module, const at::Tensor& h) {
    auto& block = dynamic_cast<BitTransformerBlockImpl&>(module);
    return memory.defined() ? block.forward(h, memory.to(h.scalar_type()), {}, {}) : block.forward(h);
  };
  c.twin_forward = [memory](torch::nn::Module& module, const at::Tensor& h) {
    if constexpr (std::is_same_v<Twin, t::TransformerDecoderLayer>)
      return sequence_first<t::TransformerDecoderLayerImpl>(module, h, memory.to(h.scalar_type()).transpose(0, 1));
    else
      return sequence_first<t::TransformerEncoderLayerImpl>(module, h);
  };
  c.same_bits = false;
  return c;
}

template <class Ours, class Twin, class TwinOptions>
LayerCase recurrent_case(const BitRecurrentOptions& options, const at::Tensor& x) {
  TwinOptions twin(options.input_size(), options.hidden_size());
  twin.num_layers(options.num_layers()).bias(options.bias());
  twin.batch_first(options.batch_first()).bidirectional(options.bidirectional());
  LayerCase c{Ours(options).ptr(), Twin(twin).ptr(), {}, {}, x};
  c.forward = [](torch::nn::Module& module, const at::Tensor& input) {
    return std::get<0>(dynamic_cast<typename Ours::ContainedType&>(module).forward(input));
  };
  c.twin_forward = [](torch::nn::Module& module, const at::Tensor& input) {
    return std::get<0>(dynamic_cast<typename Twin::ContainedType&>(module).forward(input));
  };
  return c;
}

template <class Ours, class Twin, class TwinOptions>
std::vector<LayerCase> recurrent_cases(const BitQuantConfig& quant) {
  const auto of = [](const BitRecurrentOptions& options, const at::Tensor& x) {
    return recurrent_case<Ours, Twin, TwinOptions>(options, x);
  };
  return {of(BitRecurrentOptions(5, 7).num_layers(2).bidirectional(true).batch_first(true).quant(quant),
             torch::randn({3, 4, 5})),
          of(BitRecurrentOptions(6, 9).bias(false).quant(quant), torch::randn({5, 2, 6}))};
}

}  // namespace

template <>
std::vector<LayerCase> layer_cases<BitLSTM>(const BitQuantConfig& quant) {
  return recurrent_cases<BitLSTM, t::LSTM, t::LSTMOptions>(quant);
}
template <>
std::vector<LayerCase> layer_cases<BitGRU>(const BitQuantConfig& quant) {
  return recurrent_cases<BitGRU, t::GRU, t::GRUOptions>(quant);
}

template <>
std::vector<LayerCase> layer_cases<BitLinear>(const BitQuantConfig& quant) {
  std::vector<LayerCase> cases;
  for (bool bias : {true, false})
    for (const at::Tensor& x : {torch::randn({5, 3, 70}), torch::randn({2, 70})})
      cases.push_back(layer_case(BitLinear(BitLinearOptions(70, 9).bias(bias).quant(quant)),
                                 t::Linear(t::LinearOptions(70, 9).bias(bias)), x));
  return cases;
}

template <>
std::vector<LayerCase> layer_cases<BitConv1d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {
      layer_case(BitConv1d(BitConv1dOptions(in, out, 5).stride(2).padding(2).dilation(2).groups(groups).quant(quant)),
                 t::Conv1d(t::Conv1dOptions(in, out, 5).stride(2).padding(2).dilation(2).groups(groups)),
                 torch::randn({2, in, 23})),
      layer_case(BitConv1d(BitConv1dOptions(in, 3, 3).padding(2).padding_mode(torch::kCircular).quant(quant)),
                 t::Conv1d(t::Conv1dOptions(in, 3, 3).padding(2).padding_mode(torch::kCircular)), torch::randn({2, in, 9})),
      layer_case(BitConv1d(BitConv1dOptions(in, 3, 4).padding(torch::kSame).quant(quant)),
                 t::Conv1d(t::Conv1dOptions(in, 3, 4).padding(torch::kSame)), torch::randn({2, in, 9}))};
}

template <>
std::vector<LayerCase> layer_cases<BitConv2d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {
      layer_case(
          BitConv2d(BitConv2dOptions(in, out, {3, 2}).stride(2).padding({1, 0}).groups(groups).bias(false).quant(quant)),
          t::Conv2d(t::Conv2dOptions(in, out, {3, 2}).stride(2).padding({1, 0}).groups(groups).bias(false)),
          torch::randn({3, in, 9, 7})),
      layer_case(BitConv2d(BitConv2dOptions(in, out, {3, 5}).stride({2, 1}).padding({1, 2}).dilation({1, 2}).quant(quant)),
                 t::Conv2d(t::Conv2dOptions(in, out, {3, 5}).stride({2, 1}).padding({1, 2}).dilation({1, 2})),
                 torch::randn({4, in, 12, 17})),
      layer_case(BitConv2d(BitConv2dOptions(in, 3, 3).padding({1, 2}).padding_mode(torch::kReflect).quant(quant)),
                 t::Conv2d(t::Conv2dOptions(in, 3, 3).padding({1, 2}).padding_mode(torch::kReflect)),
                 torch::randn({in, 6, 7})),
      layer_case(BitConv2d(BitConv2dOptions(in, 3, {4, 3}).padding(torch::kSame).dilation({1, 2}).quant(quant)),
                 t::Conv2d(t::Conv2dOptions(in, 3, {4, 3}).padding(torch::kSame).dilation({1, 2})),
                 torch::randn({2, in, 6, 7})),
      layer_case(BitConv2d(BitConv2dOptions(in, 3, 3).padding(torch::kSame).padding_mode(torch::kReplicate).quant(quant)),
                 t::Conv2d(t::Conv2dOptions(in, 3, 3).padding(torch::kSame).padding_mode(torch::kReplicate)),
                 torch::randn({2, in, 6, 7})),
      layer_case(BitConv2d(BitConv2dOptions(in, 3, 3).padding(torch::kValid).quant(quant)),
                 t::Conv2d(t::Conv2dOptions(in, 3, 3).padding(torch::kValid)), torch::randn({2, in, 6, 7}))};
}

template <>
std::vector<LayerCase> layer_cases<BitConv3d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {layer_case(BitConv3d(BitConv3dOptions(in, out, {1, 3, 2}).stride(2).padding(1).groups(groups).quant(quant)),
                     t::Conv3d(t::Conv3dOptions(in, out, {1, 3, 2}).stride(2).padding(1).groups(groups)),
                     torch::randn({2, in, 3, 5, 6})),
          layer_case(BitConv3d(BitConv3dOptions(in, 3, 3).padding(1).padding_mode(torch::kReplicate).quant(quant)),
                     t::Conv3d(t::Conv3dOptions(in, 3, 3).padding(1).padding_mode(torch::kReplicate)),
                     torch::randn({2, in, 4, 3, 3}))};
}

template <>
std::vector<LayerCase> layer_cases<BitConvTranspose1d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {layer_case(
      BitConvTranspose1d(BitConv1dOptions(in, out, 4).stride(2).padding(1).output_padding(1).groups(groups).quant(quant)),
      t::ConvTranspose1d(t::ConvTranspose1dOptions(in, out, 4).stride(2).padding(1).output_padding(1).groups(groups)),
      torch::randn({2, in, 7}))};
}

template <>
std::vector<LayerCase> layer_cases<BitConvTranspose2d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {layer_case(
              BitConvTranspose2d(BitConv2dOptions(in, out, {3, 4}).stride(2).output_padding(1).groups(groups).quant(quant)),
              t::ConvTranspose2d(t::ConvTranspose2dOptions(in, out, {3, 4}).stride(2).output_padding(1).groups(groups)),
              torch::randn({1, in, 5, 6})),
          layer_case(BitConvTranspose2d(BitConv2dOptions(in, out, 3).dilation(2).bias(false).quant(quant)),
                     t::ConvTranspose2d(t::ConvTranspose2dOptions(in, out, 3).dilation(2).bias(false)),
                     torch::randn({2, in, 4, 5}))};
}

template <>
std::vector<LayerCase> layer_cases<BitConvTranspose3d>(const BitQuantConfig& quant) {
  const auto [in, out, groups] = Channels(quant);
  return {layer_case(BitConvTranspose3d(BitConv3dOptions(in, out, 2).stride(2).groups(groups).quant(quant)),
                     t::ConvTranspose3d(t::ConvTranspose3dOptions(in, out, 2).stride(2).groups(groups)),
                     torch::randn({2, in, 2, 3, 4}))};
}

template <>
std::vector<LayerCase> layer_cases<BitEmbedding>(const BitQuantConfig& quant) {
  std::vector<LayerCase> cases;
  for (std::optional<int64_t> padding : {std::optional<int64_t>(), std::optional<int64_t>(3), std::optional<int64_t>(-1)}) {
    t::EmbeddingOptions twin(9, 70);
    if (padding) twin.padding_idx(*padding);
    cases.push_back(layer_case(BitEmbedding(BitEmbeddingOptions(9, 70).padding_idx(padding).quant(quant)),
                               t::Embedding(twin), torch::randint(0, 9, {4, 5})));
  }
  return cases;
}

template <>
std::vector<LayerCase> layer_cases<BitEmbeddingBag>(const BitQuantConfig& quant) {
  std::vector<LayerCase> cases;
  for (const t::EmbeddingBagMode& mode : std::vector<t::EmbeddingBagMode>{torch::kSum, torch::kMean, torch::kMax})
    cases.push_back(layer_case(BitEmbeddingBag(BitEmbeddingBagOptions(9, 16).mode(mode).quant(quant)),
                               t::EmbeddingBag(t::EmbeddingBagOptions(9, 16).mode(mode)), torch::randint(0, 9, {8, 2})));
  return cases;
}

template <>
std::vector<LayerCase> layer_cases<BitLayerNorm>(const BitQuantConfig& quant) {
  return {layer_case(randomized(BitLayerNorm(BitLayerNormOptions({5, 7}).quant(quant))),
                     t::LayerNorm(t::LayerNormOptions({5, 7})), torch::randn({2, 4, 5, 7}))};
}

template <>
std::vector<LayerCase> layer_cases<BitRMSNorm>(const BitQuantConfig& quant) {
  return {layer_case(randomized(BitRMSNorm(BitRMSNormOptions({37}).quant(quant))), RmsNorm(37), torch::randn({3, 4, 37}))};
}

template <>
std::vector<LayerCase> layer_cases<BitGroupNorm>(const BitQuantConfig& quant) {
  return {layer_case(randomized(BitGroupNorm(BitGroupNormOptions(3, 33).quant(quant))),
                     t::GroupNorm(t::GroupNormOptions(3, 33)), torch::randn({3, 33, 4}))};
}

template <>
std::vector<LayerCase> layer_cases<BitBatchNorm1d>(const BitQuantConfig&) {
  return batch_norms<BitBatchNorm1d, t::BatchNorm1d>(5, {torch::randn({7, 5}) + 1, torch::randn({3, 5, 4})});
}
template <>
std::vector<LayerCase> layer_cases<BitBatchNorm2d>(const BitQuantConfig&) {
  return batch_norms<BitBatchNorm2d, t::BatchNorm2d>(3, {torch::randn({4, 3, 5, 2}) * 3});
}
template <>
std::vector<LayerCase> layer_cases<BitBatchNorm3d>(const BitQuantConfig&) {
  return batch_norms<BitBatchNorm3d, t::BatchNorm3d>(3, {torch::randn({2, 3, 2, 3, 4}) - 2});
}

template <>
std::vector<LayerCase> layer_cases<BitMultiheadAttention>(const BitQuantConfig& quant) {
  std::vector<LayerCase> cases;
  for (bool bias : {true, false}) {
    const t::MultiheadAttentionOptions twin = t::MultiheadAttentionOptions(12, 3).bias(bias);
    const BitMultiheadAttention ours(BitMultiheadAttentionOptions(12, 3).bias(bias).quant(quant));
    LayerCase c{
        ours.ptr(), t::MultiheadAttention(twin).ptr(), case_forward<BitMultiheadAttention>(), {}, torch::randn({2, 7, 12})};
    c.twin_forward = [](torch::nn::Module& module, const at::Tensor& x) {
      const at::Tensor s = x.transpose(0, 1);
      return std::get<0>(dynamic_cast<t::MultiheadAttentionImpl&>(module).forward(s, s, s)).transpose(0, 1);
    };
    c.same_bits = false;
    cases.push_back(c);
  }
  return cases;
}

template <>
std::vector<LayerCase> layer_cases<BitFeedForward>(const BitQuantConfig& quant) {
  const BitFeedForwardOptions options = BitFeedForwardOptions(10).quant(quant);
  LayerCase gelu = layer_case(BitFeedForward(options), t::Sequential(t::Linear(10, 40), t::GELU(), t::Linear(40, 10)),
                              torch::randn({3, 5, 10}));
  LayerCase relu = layer_case(BitFeedForward(BitFeedForwardOptions(options).hidden_dim(7).activation(Activation::kRelu)),
                              t::Sequential(t::Linear(10, 7), t::ReLU(), t::Linear(7, 10)), torch::randn({4, 10}));
  gelu.renames = relu.renames = {{"0.", "up_proj."}, {"2.", "down_proj."}};
  gelu.same_bits = relu.same_bits = false;
  return {gelu, relu};
}

template <>
std::vector<LayerCase> layer_cases<BitTransformerBlock>(const BitQuantConfig& quant) {
  std::vector<LayerCase> cases;
  for (Activation activation : {Activation::kRelu, Activation::kGelu}) {
    if (quant.enabled() && activation == Activation::kGelu) continue;  // the feed-forward part's cases have it

    const auto options = BitTransformerBlockOptions(12, 3).hidden_dim(17).activation(activation).quant(quant);
    const at::Tensor x = torch::randn({2, 5, 12}), memory = torch::randn({2, 3, 12});
    cases.push_back(block_case<t::TransformerEncoderLayer, t::TransformerEncoderLayerOptions>(options, {}, x));
    cases.push_back(block_case<t::TransformerDecoderLayer, t::TransformerDecoderLayerOptions>(
        BitTransformerBlockOptions(options).cross_attention(true), memory, x));
  }
  return cases;
}

}  // namespace bitlab::nn
