#include "bitlab/models/text/transformer.h"

namespace bitlab::models {
namespace {

constexpr double kRopeTheta = 10000, kNormEpsilon = 1e-6;

// Puts a layer that is quantized as the rules say in the place of a float one.
void quantize(torch::nn::Module& parent, const std::string& name, nn::BitLinear& layer, const convert::QuantScope& scope) {
  layer = scope.layer<nn::BitLinear>(name, layer->options);
  parent.replace_module(name, layer);
}

nn::BitTransformerBlock make_block(const TransformerConfig& c, bool causal, const convert::QuantScope& scope) {
  nn::BitTransformerBlock block(nn::BitTransformerBlockOptions(c.dim, c.heads)
                                    .hidden_dim(c.hidden)
                                    .activation(nn::Activation::kSquaredRelu)
                                    .norm(nn::NormKind::kRms)
                                    .norm_eps(kNormEpsilon)
                                    .norm_first(true)
                                    .causal(causal)
                                    .dropout(c.dropout)
                                    .rope_theta(kRopeTheta)
                                    .sub_norm(c.sub_norm)
                                    .bias(false)
                                    .quant(BitQuantConfig::none()));
  auto& attention = *block->self_attn;
  const convert::QuantScope attention_scope = scope / "self_attn", feed_forward_scope = scope / "feed_forward";
  quantize(attention, "q_proj", attention.q_proj, attention_scope);
  quantize(attention, "k_proj", attention.k_proj, attention_scope);
  quantize(attention, "v_proj", attention.v_proj, attention_scope);
  quantize(attention, "out_proj", attention.out_proj, attention_scope);
  auto& feed_forward = *block->feed_forward;
  quantize(feed_forward, "up_proj", feed_forward.up_proj, feed_forward_scope);
  quantize(feed_forward, "down_proj", feed_forward.down_proj, feed_forward_scope);
  return block;
}

}  // namespace

Transformer::Transformer(const TransformerConfig& c, bool causal, const convert::QuantScope& scope) {
  if (!(c.dropout >= 0 && c.dropout < 1))
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[transformer] dropout in [0, 1), got {}", c.dropout));
  embedding_ =
      register_module("embedding", scope.layer<nn::BitEmbedding>("embedding", nn::BitEmbeddingOptions(c.vocabulary, c.dim)));
  register_module("blocks", blocks_);
  for (int64_t i = 0; i < c.layers; ++i) blocks_->push_back(make_block(c, causal, scope / "blocks" / std::to_string(i)));
  norm_ = register_module("norm",
                          nn::BitRMSNorm(nn::BitRMSNormOptions({c.dim}).eps(kNormEpsilon).quant(BitQuantConfig::none())));
}

at::Tensor Transformer::forward(const at::Tensor& tokens, const at::Tensor& mask) {
  at::Tensor x = embedding_(tokens);
  for (const auto& block : *blocks_) x = block->as<nn::BitTransformerBlock>()->forward(x, mask);
  return norm_(x);
}

program::Signature signature_of(const TransformerConfig& c) {
  program::Signature signature;
  const program::Dim tokens = signature.symbol("tokens", 1, c.tokens);
  signature.inputs = {{std::string(nn::kInput), {program::DType::kInt64, {program::kBatch, tokens}}}};
  return signature;
}

}  // namespace bitlab::models
