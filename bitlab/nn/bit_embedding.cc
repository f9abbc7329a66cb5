#include "bitlab/nn/bit_embedding.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/empty.h>
#include <torch/nn/init.h>

#include "bitlab/nn/layer.h"

namespace bitlab::nn {
namespace {

constexpr std::array<std::string_view, 3> kBagModes{"sum", "mean", "max"};

template <class Options>
void print_table(std::ostream& stream, std::string_view name, const Options& options) {
  stream << "bitlab::nn::" << name << '(' << options.num_embeddings() << ", " << options.embedding_dim();
  if (options.padding_idx()) stream << ", padding_idx=" << *options.padding_idx();
}

}  // namespace

template <class Options, class Derived>
int64_t BitTable<Options, Derived>::padding_row() const {
  if (!options.padding_idx()) return -1;
  const int64_t given = *options.padding_idx(), rows = options.num_embeddings();
  if (given < -rows || given >= rows)
    throw Exception(
        make_error(ErrorCode::kInvalidArgument, "[BitEmbedding] padding_idx in [-{}, {}), got {}", rows, rows, given));
  return given < 0 ? given + rows : given;
}

template <class Options, class Derived>
void BitTable<Options, Derived>::reset() {
  weight = this->register_parameter("weight", at::empty({options.num_embeddings(), options.embedding_dim()}));
  this->quantizer.reset(*this, options.quant(), weight, nullptr, Quantizer::Use::kValue);
  reset_parameters();
}

template <class Options, class Derived>
void BitTable<Options, Derived>::reset_parameters() {
  torch::nn::init::normal_(weight);
  const at::NoGradGuard no_grad;
  if (const int64_t row = padding_row(); row >= 0) weight[row].fill_(0);
  this->quantizer.initialize_scales(weight);
}

template class BitTable<BitEmbeddingOptions, BitEmbeddingImpl>;
template class BitTable<BitEmbeddingBagOptions, BitEmbeddingBagImpl>;

void BitEmbeddingImpl::pretty_print(std::ostream& stream) const {
  print_table(stream, "BitEmbedding", options);
  stream << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitEmbeddingImpl::forward(const at::Tensor& indices) {
  const int64_t padding = padding_row();
  const bool by_frequency = options.scale_grad_by_freq();
  if (!options.quant().enabled()) return at::embedding(weight, indices, padding, by_frequency);
  return quantizer.embedding(*this, weight, indices, padding, by_frequency);
}

void BitEmbeddingBagImpl::pretty_print(std::ostream& stream) const {
  print_table(stream, "BitEmbeddingBag", options);
  stream << ", mode=" << kBagModes.at(options.mode().index()) << ", quant=" << describe(options.quant()) << ')';
}

namespace {

// Of rows [B, n, D].
at::Tensor reduced(const at::Tensor& rows, const torch::nn::EmbeddingBagMode& mode) {
  if (std::holds_alternative<torch::enumtype::kSum>(mode)) return rows.sum(1);
  return std::holds_alternative<torch::enumtype::kMean>(mode) ? rows.mean(1) : rows.amax(1);
}

}  // namespace

at::Tensor BitEmbeddingBagImpl::forward(const at::Tensor& indices, const at::Tensor& offsets,
                                        const at::Tensor& per_sample_weights) {
  if (offsets.defined() ? indices.dim() != 1 : indices.dim() != 2)
    throw Exception(make_error(ErrorCode::kShapeMismatch,
                               "[BitEmbeddingBag] indices [B, n], or [n] with offsets, got rank {} {} offsets",
                               indices.dim(), offsets.defined() ? "with" : "without"));
  if (per_sample_weights.defined() && per_sample_weights.sizes() != indices.sizes())
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[BitEmbeddingBag] per_sample_weights {}, got {}",
                               c10::str(indices.sizes()), c10::str(per_sample_weights.sizes())));
  // Without gradients bags of one size read rows of codes, and no table of floats.
  const bool reads_rows = !is_training() && options.quant().enabled() && !offsets.defined() && indices.numel() > 0 &&
                          !per_sample_weights.defined() && padding_row() < 0;
  if (reads_rows) return reduced(quantizer.embedding(*this, weight, indices, -1, false), options.mode());
  const at::Tensor table = options.quant().enabled() ? quantizer.value(*this, weight) : weight;
  at::Tensor begins = offsets;
  if (!begins.defined()) begins = at::arange(0, indices.numel(), std::max<int64_t>(indices.size(1), 1), indices.options());
  const int64_t padding = padding_row();
  const auto left_out = padding < 0 ? std::nullopt : std::optional(padding);
  const at::Tensor factors = per_sample_weights.defined() ? per_sample_weights.flatten() : at::Tensor();
  return std::get<0>(at::embedding_bag(table, indices.flatten(), begins, options.scale_grad_by_freq(),
                                       static_cast<int64_t>(options.mode().index()), false, optional(factors),
                                       offsets.defined() && options.include_last_offset(), left_out));
}

}  // namespace bitlab::nn
