#include "bitlab/nn/bit_transformer.h"

#include <ATen/ops/dropout.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {

BitTransformerBlockImpl::BitTransformerBlockImpl(const BitTransformerBlockOptions& options_) : options(options_) { reset(); }

BitMultiheadAttentionOptions BitTransformerBlockImpl::attention_options() const {
  return BitMultiheadAttentionOptions(options.dim(), options.num_heads())
      .num_kv_heads(options.num_kv_heads())
      .bias(options.bias())
      .dropout(options.dropout())
      .sub_norm(options.sub_norm() ? std::optional(options.norm()) : std::nullopt)
      .norm_eps(options.norm_eps())
      .quant(options.quant());
}

torch::nn::AnyModule BitTransformerBlockImpl::register_norm(const std::string& name) {
  const BitQuantConfig quant = options.ternary_norms() ? options.quant() : BitQuantConfig::none();
  torch::nn::AnyModule norm = make_norm(
      BitNormOptions(options.dim()).kind(options.norm()).eps(options.norm_eps()).bias(options.bias()).quant(quant));
  register_module(name, norm.ptr());
  return norm;
}

void BitTransformerBlockImpl::reset() {
  self_attn_norm = register_norm("self_attn_norm");
  self_attn = register_module(
      "self_attn", BitMultiheadAttention(attention_options().causal(options.causal()).rope_theta(options.rope_theta())));
  if (options.cross_attention()) {
    cross_attn_norm = register_norm("cross_attn_norm");
    cross_attn = register_module("cross_attn", BitMultiheadAttention(attention_options()));
  }
  feed_forward_norm = register_norm("feed_forward_norm");
  feed_forward = register_module("feed_forward", BitFeedForward(BitFeedForwardOptions(options.dim())
                                                                    .hidden_dim(options.hidden_dim())
                                                                    .activation(options.activation())
                                                                    .bias(options.bias())
                                                                    .dropout(options.dropout())
                                                                    .sub_norm(attention_options().sub_norm())
                                                                    .norm_eps(options.norm_eps())
                                                                    .quant(options.quant())));
}

void BitTransformerBlockImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitTransformerBlock(" << options.dim() << ", num_heads=" << options.num_heads()
         << ", norm=" << nn::name(options.norm()) << ", norm_first=" << std::boolalpha << options.norm_first()
         << ", causal=" << options.causal() << ", cross_attention=" << options.cross_attention()
         << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitTransformerBlockImpl::add(const at::Tensor& x, torch::nn::AnyModule& norm, const Part& part) {
  const auto branch = [&](const at::Tensor& input) { return at::dropout(part(input), options.dropout(), is_training()); };
  if (options.norm_first()) return x + branch(norm.forward(x));
  return norm.forward(x + branch(x));
}

at::Tensor BitTransformerBlockImpl::run(const at::Tensor& x, const Part& self, const at::Tensor& memory,
                                        const at::Tensor& memory_mask) {
  if (memory.defined() != options.cross_attention())
    throw Exception(
        make_error(ErrorCode::kInvalidArgument, "[BitTransformerBlock] {}, got {}",
                   options.cross_attention() ? "a memory under cross_attention" : "no memory without cross_attention",
                   memory.defined() ? "one" : "none"));
  at::Tensor y = add(x, self_attn_norm, self);
  if (memory.defined())
    y = add(y, cross_attn_norm, [&](const at::Tensor& h) { return cross_attn->forward(h, memory, memory, memory_mask); });
  return add(y, feed_forward_norm, [&](const at::Tensor& h) { return feed_forward->forward(h); });
}

at::Tensor BitTransformerBlockImpl::forward(const at::Tensor& x, const at::Tensor& attn_mask) {
  return forward(x, {}, attn_mask, {});
}

at::Tensor BitTransformerBlockImpl::forward(const at::Tensor& x, const at::Tensor& memory, const at::Tensor& attn_mask,
                                            const at::Tensor& memory_mask) {
  return run(
      x, [&](const at::Tensor& h) { return self_attn->forward(h, h, h, attn_mask); }, memory, memory_mask);
}

at::Tensor BitTransformerBlockImpl::forward(const at::Tensor& x, KvState* state) { return forward(x, at::Tensor(), state); }

at::Tensor BitTransformerBlockImpl::forward(const at::Tensor& x, const at::Tensor& memory, KvState* state) {
  return run(x, [&](const at::Tensor& h) { return self_attn->forward(h, state); }, memory, {});
}

}  // namespace bitlab::nn
