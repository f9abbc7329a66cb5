#include "bitlab/nn/product_layer.h"

#include <set>

namespace bitlab::nn {

std::vector<FoundProduct> products_of(const torch::nn::Module& network) {
  constexpr std::string_view kWeight = "weight";
  std::vector<FoundProduct> found;
  std::set<const torch::nn::Module*> seen;
  for (const auto& item : network.named_modules(std::string(), false)) {
    const std::shared_ptr<torch::nn::Module>& module = item.value();
    if (!seen.insert(module.get()).second) continue;
    if (auto* layer = dynamic_cast<ProductLayer*>(module.get()); layer != nullptr)
      found.push_back({item.key(), item.key(), "", module, {module, layer}});
    auto* several = dynamic_cast<ProductLayers*>(module.get());
    if (several == nullptr) continue;
    for (auto& [weight, layer] : several->product_layers())
      found.push_back({item.key(), item.key() + "." + weight, weight.substr(kWeight.size()), module, std::move(layer)});
  }
  return found;
}

}  // namespace bitlab::nn
