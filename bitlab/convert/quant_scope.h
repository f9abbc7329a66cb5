// The quantization of each layer of a network that is being built, by its path: what constructors of the zoo ask. The rules, the facts that they
// see and the report are those of the converter, so a network that is built by rules and a float one that is converted by them have the same
// layers.
//
//   explicit LeNet5(const LeNet5Config& c, const convert::QuantScope& scope) {
//     conv1_ = register_module("conv1", scope.layer<nn::BitConv2d>("conv1", nn::BitConv2dOptions(c.channels, 20, 5)));
//     blocks_ = register_module("blocks", Blocks(c, scope / "blocks"));
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include <c10/util/accumulate.h>

#include "bitlab/convert/converter.h"
#include "bitlab/convert/layer_types.h"

namespace bitlab::convert {

// Copies share one state. Layers are asked for once each, in the order in which they are registered.
class QuantScope {
 public:
  // Errors: those of RuleSet::create().
  static Result<QuantScope> create(MixedPrecisionConfig config, const ConvertOptions& options = {});

  // `build` makes the network with a scope and throws its errors. Where a rule asks for the first or the last layer, the network is built in
  // float before, to count its layers; that leaves no trace in LibTorch's random numbers.
  void build(const std::function<void(const QuantScope&)>& build) const;

  // That of a part of the network.
  QuantScope operator/(const std::string& name) const;

  // A layer with these options, quantized as the rules say. Errors (bitlab::Exception): those of the layer, Unsupported (a master weight, which
  // takes a BitModel), naming the layer.
  template <class Layer, class Options>
  Layer layer(const std::string& name, Options options) const {
    options.quant(quant(name, kLayerType<Layer>, weights(options)));
    return checked(name, [&] {
      Layer made(options);
      made_of(*made);
      return made;
    });
  }

  // The same for what is no layer of nn/, by its type and the number of its weights; the caller makes it.
  BitQuantConfig quant(const std::string& name, std::string_view type, int64_t weights) const;

  // What was decided. `network`: what was built, whose other parameters are listed, too.
  ConversionReport report(const torch::nn::Module& network) const;

 private:
  struct State;
  QuantScope(std::shared_ptr<State> state, std::string prefix) : state_(std::move(state)), prefix_(std::move(prefix)) {}

  static int64_t weights(const nn::BitLinearOptions& o) { return o.in_features() * o.out_features(); }
  static int64_t weights(const nn::BitEmbeddingOptions& o) { return o.num_embeddings() * o.embedding_dim(); }
  static int64_t weights(const nn::BitEmbeddingBagOptions& o) { return o.num_embeddings() * o.embedding_dim(); }
  template <size_t D>
  static int64_t weights(const nn::BitConvOptions<D>& o) {
    return o.in_channels() * o.out_channels() / std::max<int64_t>(o.groups(), 1) * c10::multiply_integers(*o.kernel_size());
  }

  std::string path_of(const std::string& name) const { return prefix_.empty() ? name : prefix_ + "." + name; }
  void made_of(const torch::nn::Module& layer) const;

  template <class Make>
  auto checked(const std::string& name, Make make) const -> decltype(make()) {
    try {
      return make();
    } catch (const Exception& error) {
      throw Exception(make_error(error.code(), "{} (layer={})", error.what(), path_of(name)));
    }
  }

  std::shared_ptr<State> state_;
  std::string prefix_;
};

}  // namespace bitlab::convert
