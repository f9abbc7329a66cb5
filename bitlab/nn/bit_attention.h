// Attention with ternary projections, and the state of generation.
#pragma once

#include <optional>
#include <ostream>

#include <torch/arg.h>

#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"

namespace bitlab::nn {

// Keys and values of the tokens so far, of one attention layer, keys after the rotary embedding. For generation: what is appended is copied
// into memory with room for more, and no gradient goes through it.
class KvState {
 public:
  // [B, num_kv_heads, position, head_dim], views of the state; undefined to begin with.
  at::Tensor key() const;
  at::Tensor value() const;
  // Tokens so far.
  int64_t position() const { return length_; }
  // Error: ShapeMismatch: another batch, or other heads, than the tokens so far have.
  void append(const at::Tensor& new_key, const at::Tensor& new_value);
  // Forgets all but the first `length` tokens. Error: InvalidArgument: there are fewer.
  void truncate(int64_t length);
  void clear() { *this = {}; }

 private:
  at::Tensor keys_, values_;  // [B, num_kv_heads, capacity, head_dim]
  int64_t length_ = 0;
};

struct BitMultiheadAttentionOptions {
  BitMultiheadAttentionOptions(int64_t embed_dim, int64_t num_heads) : embed_dim_(embed_dim), num_heads_(num_heads) {}
  TORCH_ARG(int64_t, embed_dim);
  TORCH_ARG(int64_t, num_heads);
  // Heads of keys and values, each of which serves num_heads / num_kv_heads of the queries' (arXiv:2305.13245); 0: num_heads.
  TORCH_ARG(int64_t, num_kv_heads) = 0;
  // Last sizes of keys and values of forward(query, key, value); 0: embed_dim.
  TORCH_ARG(int64_t, kdim) = 0;
  TORCH_ARG(int64_t, vdim) = 0;
  // Of the four projections.
  TORCH_ARG(bool, bias) = true;
  // Of the attention weights, in training.
  TORCH_ARG(double, dropout) = 0;
  // A token attends to itself and to those before it.
  TORCH_ARG(bool, causal) = false;
  // Base of the rotary position embedding (ops::rotary), 10000 as a rule; 0: none.
  TORCH_ARG(double, rope_theta) = 0;
  // A norm of the heads' output before out_proj (SubLN, arXiv:2310.11453); none: without.
  TORCH_ARG(std::optional<NormKind>, sub_norm) = std::nullopt;
  TORCH_ARG(double, norm_eps) = 1e-5;
  // Of the projections. The norm stays float32.
  TORCH_ARG(BitQuantConfig, quant);
};

// As torch::nn::MultiheadAttention, always with the batch first, without its weights as a second result; arXiv:1706.03762.
//
//   query [B, T, embed_dim], key [B, S, kdim], value [B, S, vdim]  ->  [B, T, embed_dim]
//   out_proj(sub_norm(concat over heads of softmax(q k^T / sqrt(head_dim) + mask) v)),  q = q_proj(query), k = ..., v = ...
//
// attn_mask broadcasts to [B, num_heads, T, S]: bool, true where a query may attend, or added, of the query's type. Under `causal` it is
// restricted further.
// Children: q_proj, k_proj, v_proj, out_proj (BitLinear), sub_norm. The products of queries, keys and values stay float.
// Errors: InvalidArgument (sizes that do not divide), ShapeMismatch, TypeMismatch (a mask), those of ops.h.
class BitMultiheadAttentionImpl : public torch::nn::Cloneable<BitMultiheadAttentionImpl> {
 public:
  BitMultiheadAttentionImpl(int64_t embed_dim, int64_t num_heads)
      : BitMultiheadAttentionImpl(BitMultiheadAttentionOptions(embed_dim, num_heads)) {}
  explicit BitMultiheadAttentionImpl(const BitMultiheadAttentionOptions& options_);

  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  // Self-attention.
  at::Tensor forward(const at::Tensor& x) { return forward(x, x, x); }
  at::Tensor forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& attn_mask = {});
  // Causal self-attention to the tokens of `state` and to x, which follows them and is appended: generation in steps of any length
  // equals the whole sequence at once. Null: forward(x).
  at::Tensor forward(const at::Tensor& x, KvState* state);

  BitMultiheadAttentionOptions options;
  BitLinear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, out_proj{nullptr};
  torch::nn::AnyModule sub_norm;  // empty without

 private:
  struct Heads {
    at::Tensor query, key, value;  // [B, heads, T or S, head_dim]
  };
  int64_t kv_heads() const { return options.num_kv_heads() == 0 ? options.num_heads() : options.num_kv_heads(); }
  Heads project(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, int64_t position);
  at::Tensor product(Heads heads, const at::Tensor& mask, double dropout, bool is_causal) const;
  at::Tensor attend(const Heads& heads, const at::Tensor& attn_mask, bool causal);
};
TORCH_MODULE(BitMultiheadAttention);

}  // namespace bitlab::nn
