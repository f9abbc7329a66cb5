#include "bitlab/convert/internal/twins.h"

#include <typeindex>
#include <unordered_map>

#include "bitlab/convert/layer_types.h"

namespace bitlab::convert {
namespace {

[[noreturn]] void refuse(const char* type, std::string_view expectation, std::string_view found) {
  throw Exception(make_error(ErrorCode::kUnsupported, "[convert] {} {}, got {}", type, expectation, found));
}

void check_float32(const at::Tensor& weight) {
  if (weight.scalar_type() != at::kFloat)
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[convert] a layer of float32 weights, got {}",
                               c10::toString(weight.scalar_type())));
}

template <class Holder, class Source>
Twin with_weights(Holder layer, Source& source) {
  if constexpr (requires { source.bias; }) {
    check_float32(source.weight);
    layer->adopt(source.weight, source.bias);
  } else if constexpr (requires { source.weight; }) {
    check_float32(source.weight);
    layer->adopt(source.weight, {});
  } else {  // of several weights
    for (const at::Tensor& parameter : source.parameters(false)) check_float32(parameter);
    layer->adopt(source);
  }
  layer->train(source.is_training());
  return {layer.ptr(), torch::nn::AnyModule(layer)};
}

// Without its padding, which comes with each call.
template <class Options>
ops::ConvWindow window_of(const Options& o, bool transposed) {
  const auto vector = [](const auto& sizes) { return std::vector<int64_t>(sizes->begin(), sizes->end()); };
  return {vector(o.stride()),         std::vector<int64_t>(o.stride()->size(), 0),
          vector(o.dilation()),       transposed,
          vector(o.output_padding()), o.groups()};
}

// The options of a layer of nn/ that was made to compute in float, so that rules may still make it ternary; null for all else.
template <class Layer>
auto* float_options(const torch::nn::Module& module) {
  const auto* layer = dynamic_cast<const typename Layer::ContainedType*>(&module);
  return layer != nullptr && !layer->options.quant().enabled() ? &layer->options : nullptr;
}

// Null for what is no convolution of these classes.
template <class Layer, class LibTorch>
std::unique_ptr<ops::ConvWindow> window_of(const torch::nn::Module& module, bool transposed) {
  using Source = typename LibTorch::ContainedType;
  if constexpr (requires(const Source& source) { source.options.stride(); }) {
    if (const auto* conv = dynamic_cast<const Source*>(&module); conv != nullptr)
      return std::make_unique<ops::ConvWindow>(window_of(conv->options, transposed));
    if (const auto* options = float_options<Layer>(module); options != nullptr)
      return std::make_unique<ops::ConvWindow>(window_of(*options, transposed));
  }
  return nullptr;
}

template <size_t D, class Holder, class Source>
Twin conv_twin(Source& source, const BitQuantConfig& quant) {
  const auto& o = source.options;
  auto options = nn::BitConvOptions<D>(o.in_channels(), o.out_channels(), o.kernel_size());
  options.stride(o.stride()).padding(o.padding()).dilation(o.dilation());
  options.groups(o.groups()).bias(o.bias()).padding_mode(o.padding_mode()).quant(quant);
  if (o.transposed()) options.output_padding(o.output_padding());
  return with_weights(Holder(options), source);
}

template <class Options>
void refuse_options(const char* type, const Options& o) {
  if (o.max_norm()) refuse(type, "without max_norm", fmt::format("max_norm {}", *o.max_norm()));
  if (o.sparse()) refuse(type, "with dense gradients", "sparse true");
}

Twin embedding_twin(torch::nn::EmbeddingImpl& source, const BitQuantConfig& quant) {
  const auto& o = source.options;
  refuse_options("embedding", o);
  nn::BitEmbeddingOptions options(o.num_embeddings(), o.embedding_dim());
  options.padding_idx(o.padding_idx()).scale_grad_by_freq(o.scale_grad_by_freq());
  return with_weights(nn::BitEmbedding(options.quant(quant)), source);
}

Twin bag_twin(torch::nn::EmbeddingBagImpl& source, const BitQuantConfig& quant) {
  const auto& o = source.options;
  refuse_options("embedding_bag", o);
  nn::BitEmbeddingBagOptions options(o.num_embeddings(), o.embedding_dim());
  options.mode(o.mode()).padding_idx(o.padding_idx());
  options.scale_grad_by_freq(o.scale_grad_by_freq()).include_last_offset(o.include_last_offset());
  return with_weights(nn::BitEmbeddingBag(options.quant(quant)), source);
}

template <class Holder, class Source>
Twin recurrent_twin(const char* type, Source& source, const BitQuantConfig& quant) {
  const auto& o = source.options;
  if constexpr (requires { o.proj_size(); })
    if (o.proj_size() != 0) refuse(type, "without proj_size", fmt::format("proj_size {}", o.proj_size()));
  nn::BitRecurrentOptions options(o.input_size(), o.hidden_size());
  options.num_layers(o.num_layers()).bias(o.bias()).batch_first(o.batch_first());
  options.dropout(o.dropout()).bidirectional(o.bidirectional());
  return with_weights(Holder(options.quant(quant)), source);
}

}  // namespace

// The very classes: one that derives from them may have a forward() of its own.
std::string type_of(const torch::nn::Module& module) {
  static const std::unordered_map<std::type_index, std::string> types{
#define BITLAB_TYPE(name, Layer, LibTorch) {typeid(LibTorch::ContainedType), name},
      BITLAB_LAYER_TYPES(BITLAB_TYPE)
#undef BITLAB_TYPE
  };
  const auto found = types.find(typeid(module));
  if (found != types.end()) return found->second;
#define BITLAB_TYPE(name, Layer, LibTorch) \
  if (float_options<Layer>(module) != nullptr) return name;
  BITLAB_LAYER_TYPES(BITLAB_TYPE)
#undef BITLAB_TYPE
  return "";
}

std::unique_ptr<ops::ConvWindow> window_of(const torch::nn::Module& module) {
  std::unique_ptr<ops::ConvWindow> window;
#define BITLAB_TYPE(name, Layer, LibTorch) \
  if (window == nullptr) window = window_of<Layer, LibTorch>(module, std::string_view(name).starts_with("conv_transpose"));
  BITLAB_LAYER_TYPES(BITLAB_TYPE)
#undef BITLAB_TYPE
  return window;
}

Twin make_twin(torch::nn::Module& module, const BitQuantConfig& quant) {
  using namespace torch::nn;
  if (auto* m = dynamic_cast<LinearImpl*>(&module); m != nullptr) {
    const auto& o = m->options;
    return with_weights(nn::BitLinear(nn::BitLinearOptions(o.in_features(), o.out_features()).bias(o.bias()).quant(quant)),
                        *m);
  }
  if (auto* m = dynamic_cast<Conv1dImpl*>(&module); m != nullptr) return conv_twin<1, nn::BitConv1d>(*m, quant);
  if (auto* m = dynamic_cast<Conv2dImpl*>(&module); m != nullptr) return conv_twin<2, nn::BitConv2d>(*m, quant);
  if (auto* m = dynamic_cast<Conv3dImpl*>(&module); m != nullptr) return conv_twin<3, nn::BitConv3d>(*m, quant);
  if (auto* m = dynamic_cast<ConvTranspose1dImpl*>(&module); m != nullptr)
    return conv_twin<1, nn::BitConvTranspose1d>(*m, quant);
  if (auto* m = dynamic_cast<ConvTranspose2dImpl*>(&module); m != nullptr)
    return conv_twin<2, nn::BitConvTranspose2d>(*m, quant);
  if (auto* m = dynamic_cast<ConvTranspose3dImpl*>(&module); m != nullptr)
    return conv_twin<3, nn::BitConvTranspose3d>(*m, quant);
  if (auto* m = dynamic_cast<EmbeddingImpl*>(&module); m != nullptr) return embedding_twin(*m, quant);
  if (auto* m = dynamic_cast<EmbeddingBagImpl*>(&module); m != nullptr) return bag_twin(*m, quant);
  if (auto* m = dynamic_cast<LSTMImpl*>(&module); m != nullptr) return recurrent_twin<nn::BitLSTM>("lstm", *m, quant);
  if (auto* m = dynamic_cast<GRUImpl*>(&module); m != nullptr) return recurrent_twin<nn::BitGRU>("gru", *m, quant);
#define BITLAB_TYPE(name, Layer, LibTorch)                                           \
  if (const auto* known = float_options<Layer>(module); known != nullptr) {          \
    auto options = *known;                                                           \
    options.quant(quant);                                                            \
    return with_weights(Layer(options), static_cast<Layer::ContainedType&>(module)); \
  }
  BITLAB_LAYER_TYPES(BITLAB_TYPE)
#undef BITLAB_TYPE
  throw Exception(make_error(ErrorCode::kUnsupported, "[convert] a layer that has a ternary form, got {}", module.name()));
}

}  // namespace bitlab::convert
