#include "bitlab/convert/sensitivity.h"

#include <algorithm>
#include <numeric>

#include "bitlab/convert/bit_model.h"

namespace bitlab::convert {
namespace {

struct Layer {
  std::string path;
  nn::ProductLayer* layer;
};

// Makes every layer ternary again, whatever happens.
struct Restored {
  const std::vector<Layer>& layers;
  explicit Restored(const std::vector<Layer>& all) : layers(all) {}
  ~Restored() { bypass(false); }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
  void bypass(bool on) const {
    for (const Layer& l : layers) l.layer->view().quantizer.bypass(on);
  }
};

int64_t parameters_of(const nn::ProductLayer::View& view) {
  return view.weight.numel() + (view.bias.defined() ? view.bias.numel() : 0);
}

}  // namespace

Result<Sensitivity> analyze(torch::nn::Module& module, const std::function<Result<double>()>& loss) {
  std::vector<Layer> layers;
  for (const auto& item : module.named_modules(std::string(), false)) {
    auto* layer = dynamic_cast<nn::ProductLayer*>(item.value().get());
    if (layer != nullptr && layer->view().quant.enabled())
      layers.push_back({layer_path(module, item.key(), *item.value()), layer});
  }
  if (layers.empty()) return make_error(ErrorCode::kInvalidArgument, "[analyze] a module with ternary layers, got none");
  module.eval();
  const Restored all(layers);
  Sensitivity sensitivity;
  BITLAB_TRY(sensitivity.ternary_loss, loss());
  all.bypass(true);
  BITLAB_TRY(sensitivity.float_loss, loss());
  for (const Layer& l : layers) {
    const auto view = l.layer->view();
    view.quantizer.bypass(false);
    BITLAB_TRY(const double own, loss());
    view.quantizer.bypass(true);
    sensitivity.layers.push_back({l.path, parameters_of(view), own});
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
