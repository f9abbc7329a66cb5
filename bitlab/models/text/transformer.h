// What the models of text have in common: their sizes, and their blocks, those of BitNet b1.58 (arXiv:2402.17764) with squared ReLU: RMS norms in front
// and, unless `sub_norm` is off, before each last projection (SubLN), rotary positions, no biases.
#pragma once

#include "bitlab/models/model.h"
#include "bitlab/nn/bit_transformer.h"

namespace bitlab::models {

struct TransformerConfig {
  int64_t vocabulary = 256;
  int64_t tokens = 64;
  int64_t layers = 4;
  int64_t dim = 128;
  int64_t heads = 4;
  int64_t hidden = 512;
  double dropout = 0;
  bool sub_norm = true;

  void visit(config::Fields& f) {
    f("vocabulary", vocabulary, "number of different tokens");
    f("tokens", tokens, "most tokens of a text");
    f("layers", layers, "transformer blocks");
    f("dim", dim, "width of a token's vector, which heads divides into even parts");
    f("heads", heads, "heads of attention");
    f("hidden", hidden, "width of the hidden layer of a block");
    f("dropout", dropout, "share of values that training leaves out, from 0 to less than 1");
    f("sub_norm", sub_norm, "norms in front of the last projections of attention and feed-forward part, as BitNet has them");
  }
};

// Tokens int64 [B, T] -> vectors [B, T, dim], behind the last norm. Modules: embedding, blocks.0 and so on, norm.
class Transformer final : public torch::nn::Module {
 public:
  // Throws the errors of the layers; InvalidArgument (dropout).
  Transformer(const TransformerConfig& c, bool causal, const convert::QuantScope& scope);
  // mask: bool, which keys a query may see, broadcast to [B, heads, T, T]; undefined: all.
  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& mask = {});

 private:
  nn::BitEmbedding embedding_{nullptr};
  torch::nn::ModuleList blocks_;
  nn::BitRMSNorm norm_{nullptr};
};

// int64 [batch, tokens], of any number of tokens up to the config's.
program::Signature signature_of(const TransformerConfig& c);

}  // namespace bitlab::models
