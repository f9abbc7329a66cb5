#include "bitlab/convert/sensitivity.h"

#include <algorithm>
#include <numeric>

#include "bitlab/convert/bit_model.h"

namespace bitlab::convert {
namespace {

// What rules decide about: a product, or the several ones of a recurrent layer.
struct Layer {
  std::string path;
  std::vector<std::shared_ptr<nn::ProductLayer>> products{};

  void bypass(bool on) const {
    for (const auto& product : products) product->view().quantizer.bypass(on);
  }
  int64_t parameters() const {
    int64_t count = 0;
    for (const auto& product : products) {
      const auto view = product->view();
      count += view.weight.numel() + (view.bias.defined() ? view.bias.numel() : 0);
    }
    return count;
  }
};

std::vector<Layer> layers_of(const torch::nn::Module& module) {
  std::vector<Layer> layers;
  for (const auto& [path, unused, suffix, owner, layer] : nn::products_of(module)) {
    if (!layer->view().quant.enabled()) continue;
    std::string name = layer_path(module, path, *owner);
    if (layers.empty() || layers.back().path != name) layers.push_back({std::move(name)});
    layers.back().products.push_back(layer);
  }
  return layers;
}

// Makes every layer ternary again, whatever happens.
struct Restored {
  const std::vector<Layer>& layers;
  explicit Restored(const std::vector<Layer>& all) : layers(all) {}
  ~Restored() { bypass(false); }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
  void bypass(bool on) const {
    for (const Layer& l : layers) l.bypass(on);
  }
};

}  // namespace

Result<Sensitivity> analyze(torch::nn::Module& module, const std::function<Result<double>()>& loss) {
  const std::vector<Layer> layers = layers_of(module);
  if (layers.empty()) return make_error(ErrorCode::kInvalidArgument, "[analyze] a module with ternary layers, got none");
  module.eval();
  const Restored all(layers);
  Sensitivity sensitivity;
  BITLAB_TRY(sensitivity.ternary_loss, loss());
  all.bypass(true);
  BITLAB_TRY(sensitivity.float_loss, loss());
  for (const Layer& l : layers) {
    l.bypass(false);
    BITLAB_TRY(const double own, loss());
    l.bypass(true);
    sensitivity.layers.push_back({l.path, l.parameters(), own});
  }
  return sensitivity;
}

std::vector<QuantRule> propose_rules(const Sensitivity& s, double budget) {
  std::vector<size_t> order(s.layers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto cost = [&](size_t i) { return s.increase(s.layers[i]) / static_cast<double>(s.layers[i].parameters); };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  double left = 0;
  for (const LayerSensitivity& layer : s.layers) left += std::max(0.0, s.increase(layer));
  std::vector<QuantRule> rules;
  for (const size_t i : order) {
    const double own = s.increase(s.layers[i]);
    if (left <= budget || own <= 0) break;
    QuantRule rule;
    rule.path = s.layers[i].path;
    rule.quant = QuantRule::in_float();
    rules.push_back(std::move(rule));
    left -= own;
  }
  return rules;
}

}  // namespace bitlab::convert
