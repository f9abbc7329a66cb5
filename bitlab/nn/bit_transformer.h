// A transformer block with ternary weights: an encoder's or a decoder's layer.
#pragma once

#include <functional>
#include <ostream>

#include <torch/arg.h>

#include "bitlab/nn/bit_attention.h"
#include "bitlab/nn/bit_feed_forward.h"

namespace bitlab::nn {

struct BitTransformerBlockOptions {
  BitTransformerBlockOptions(int64_t dim, int64_t num_heads) : dim_(dim), num_heads_(num_heads) {}
  TORCH_ARG(int64_t, dim);
  TORCH_ARG(int64_t, num_heads);
  // Of both attentions; 0: num_heads.
  TORCH_ARG(int64_t, num_kv_heads) = 0;
  // Of the feed-forward part; 0: 4 * dim.
  TORCH_ARG(int64_t, hidden_dim) = 0;
  TORCH_ARG(Activation, activation) = Activation::kGelu;
  TORCH_ARG(NormKind, norm) = NormKind::kLayer;
  TORCH_ARG(double, norm_eps) = 1e-5;
  // x + f(norm(x)) in place of norm(x + f(x)).
  TORCH_ARG(bool, norm_first) = false;
  // Of the self-attention.
  TORCH_ARG(bool, causal) = false;
  // A decoder's second attention, to a memory.
  TORCH_ARG(bool, cross_attention) = false;
  // Of attention weights, hidden values and what each part adds, in training.
  TORCH_ARG(double, dropout) = 0;
  // Base of the self-attention's rotary embedding; 0: none.
  TORCH_ARG(double, rope_theta) = 0;
  // Norms before out_proj and down_proj, of the kind `norm` (SubLN, arXiv:2310.11453).
  TORCH_ARG(bool, sub_norm) = false;
  // Of projections and layer norms.
  TORCH_ARG(bool, bias) = true;
  // The weights of the norms, without sub-norms, are ternary, too.
  TORCH_ARG(bool, ternary_norms) = false;
  TORCH_ARG(BitQuantConfig, quant);
};

// As torch::nn::TransformerEncoderLayer, and with `cross_attention` as torch::nn::TransformerDecoderLayer, always with the batch first;
// arXiv:1706.03762. x [B, T, dim], memory [B, S, dim] -> [B, T, dim]. Each part f, self_attn, cross_attn and feed_forward in this order, makes
//
//   x = norm(x + dropout(f(x))),   or under norm_first   x = x + dropout(f(norm(x)))
//
// with a norm of its own: self_attn_norm, cross_attn_norm, feed_forward_norm. Masks are those of BitMultiheadAttention.
// Errors: InvalidArgument (a memory without cross_attention, or the other way round), those of the parts.
class BitTransformerBlockImpl : public torch::nn::Cloneable<BitTransformerBlockImpl> {
 public:
  BitTransformerBlockImpl(int64_t dim, int64_t num_heads)
      : BitTransformerBlockImpl(BitTransformerBlockOptions(dim, num_heads)) {}
  explicit BitTransformerBlockImpl(const BitTransformerBlockOptions& options_);

  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  at::Tensor forward(const at::Tensor& x, const at::Tensor& attn_mask = {});
  at::Tensor forward(const at::Tensor& x, const at::Tensor& memory, const at::Tensor& attn_mask,
                     const at::Tensor& memory_mask);
  // Generation: causal, x follows the tokens of `state` and is appended to them. Null: no state, no masks.
  at::Tensor forward(const at::Tensor& x, KvState* state);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& memory, KvState* state);

  BitTransformerBlockOptions options;
  BitMultiheadAttention self_attn{nullptr}, cross_attn{nullptr};
  BitFeedForward feed_forward{nullptr};
  torch::nn::AnyModule self_attn_norm, cross_attn_norm, feed_forward_norm;

 private:
  using Part = std::function<at::Tensor(const at::Tensor&)>;
  torch::nn::AnyModule register_norm(const std::string& name);
  BitMultiheadAttentionOptions attention_options() const;
  at::Tensor add(const at::Tensor& x, torch::nn::AnyModule& norm, const Part& part);
  at::Tensor run(const at::Tensor& x, const Part& self, const at::Tensor& memory, const at::Tensor& memory_mask);
};
TORCH_MODULE(BitTransformerBlock);

}  // namespace bitlab::nn
