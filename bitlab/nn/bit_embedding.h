// Tables of ternary rows: two bits a weight instead of 32, and lookups that compute nothing but t s.
#pragma once

#include <optional>
#include <ostream>

#include <torch/arg.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/options/embedding.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/quantizer.h"

namespace bitlab::nn {

struct BitEmbeddingOptions {
  BitEmbeddingOptions(int64_t num_embeddings, int64_t embedding_dim)
      : num_embeddings_(num_embeddings), embedding_dim_(embedding_dim) {}
  TORCH_ARG(int64_t, num_embeddings);
  TORCH_ARG(int64_t, embedding_dim);
  // A row that begins as zeros and gets no gradient; from -num_embeddings on.
  TORCH_ARG(std::optional<int64_t>, padding_idx) = std::nullopt;
  // Divides a row's gradient by how often it was looked up.
  TORCH_ARG(bool, scale_grad_by_freq) = false;
  // How the table is quantized; "channel" is by row. Its activation does not matter.
  TORCH_ARG(BitQuantConfig, quant);
};

struct BitEmbeddingBagOptions {
  BitEmbeddingBagOptions(int64_t num_embeddings, int64_t embedding_dim)
      : num_embeddings_(num_embeddings), embedding_dim_(embedding_dim) {}
  TORCH_ARG(int64_t, num_embeddings);
  TORCH_ARG(int64_t, embedding_dim);
  // torch::kSum, kMean or kMax.
  TORCH_ARG(torch::nn::EmbeddingBagMode, mode) = torch::kMean;
  // A row that bags leave out, and that gets no gradient.
  TORCH_ARG(std::optional<int64_t>, padding_idx) = std::nullopt;
  // Divides a row's gradient by how often it was looked up; not with torch::kMax.
  TORCH_ARG(bool, scale_grad_by_freq) = false;
  // Offsets end with the number of indices: B + 1 of them.
  TORCH_ARG(bool, include_last_offset) = false;
  TORCH_ARG(BitQuantConfig, quant);
};

// A table. Parameters: weight [num_embeddings, embedding_dim], latent float32, initialized as torch::nn::Embedding; those of the quantizer.
// Errors: InvalidArgument (an index, padding_idx), those of ops.h.
template <class Options, class Derived>
class BitTable : public TernaryLayer<Derived> {
 public:
  explicit BitTable(Options options_) : options(std::move(options_)) { reset(); }

  void reset() override;
  void reset_parameters();

  Options options;
  at::Tensor weight;

 protected:
  // padding_idx counted from the front; -1 without.
  int64_t padding_row() const;
};

// indices int64 [...] -> float32 [..., embedding_dim], as torch::nn::Embedding. Where rows have scales of their own, training quantizes
// those that are looked up alone.
class BitEmbeddingImpl : public BitTable<BitEmbeddingOptions, BitEmbeddingImpl> {
 public:
  BitEmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim)
      : BitEmbeddingImpl(BitEmbeddingOptions(num_embeddings, embedding_dim)) {}
  explicit BitEmbeddingImpl(BitEmbeddingOptions options_) : BitTable(std::move(options_)) {}

  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& indices);
};
extern template class BitTable<BitEmbeddingOptions, BitEmbeddingImpl>;
TORCH_MODULE(BitEmbedding);

// One vector a bag: the sum, mean or maximum of its rows, as torch::nn::EmbeddingBag.
//   indices int64 [B, n]                              -> [B, embedding_dim]
//   indices int64 [n], offsets int64 [B]: where bags begin -> [B, embedding_dim]
// per_sample_weights float32, the shape of indices: multiplies each row, under torch::kSum.
class BitEmbeddingBagImpl : public BitTable<BitEmbeddingBagOptions, BitEmbeddingBagImpl> {
 public:
  BitEmbeddingBagImpl(int64_t num_embeddings, int64_t embedding_dim)
      : BitEmbeddingBagImpl(BitEmbeddingBagOptions(num_embeddings, embedding_dim)) {}
  explicit BitEmbeddingBagImpl(BitEmbeddingBagOptions options_) : BitTable(std::move(options_)) {}

  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& indices, const at::Tensor& offsets = {}, const at::Tensor& per_sample_weights = {});

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(at::Tensor())}, {2, torch::nn::AnyValue(at::Tensor())})
};
extern template class BitTable<BitEmbeddingBagOptions, BitEmbeddingBagImpl>;
TORCH_MODULE(BitEmbeddingBag);

}  // namespace bitlab::nn
