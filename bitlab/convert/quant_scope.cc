#include "bitlab/convert/quant_scope.h"

#include <ATen/CPUGeneratorImpl.h>

#include "bitlab/nn/layer.h"

namespace bitlab::convert {
namespace {

// Puts the random numbers back that building a network takes.
class RandomNumbersKept {
 public:
  RandomNumbersKept() : state_(generator().get_state()) {}
  ~RandomNumbersKept() { generator().set_state(state_); }
  RandomNumbersKept(const RandomNumbersKept&) = delete;
  RandomNumbersKept& operator=(const RandomNumbersKept&) = delete;

 private:
  static at::Generator generator() { return at::detail::getDefaultCPUGenerator(); }
  at::Tensor state_;
};

}  // namespace

struct QuantScope::State {
  RuleSet rules;
  std::map<std::string, std::string> tags;
  int64_t count = 0;  // of all layers, once it is known
  bool counts = false;
  ConversionReport report{};
  std::set<const void*> covered{};  // parameters of the layers
};

Result<QuantScope> QuantScope::create(MixedPrecisionConfig config, const ConvertOptions& options) {
  BITLAB_TRY(RuleSet rules, RuleSet::create(std::move(config)));
  return QuantScope(std::make_shared<State>(State{std::move(rules), options.tags}), "");
}

void QuantScope::build(const std::function<void(const QuantScope&)>& build) const {
  if (state_->rules.has_positions()) {
    const RandomNumbersKept kept;
    const auto counter = std::make_shared<State>(State{state_->rules, {}, 0, true});
    build(QuantScope(counter, ""));
    state_->count = counter->count;
  }
  build(*this);
}

QuantScope QuantScope::operator/(const std::string& name) const { return {state_, path_of(name)}; }

BitQuantConfig QuantScope::quant(const std::string& name, std::string_view type, int64_t weights) const {
  if (state_->counts) {
    ++state_->count;
    return BitQuantConfig::none();
  }
  const std::string path = path_of(name);
  const auto tag = state_->tags.find(path);
  const Decision decision =
      state_->rules.decide({path, std::string(type), tag == state_->tags.end() ? "" : tag->second, weights,
                            static_cast<int64_t>(state_->report.layers.size()), state_->count});
  if (decision.master)
    throw Exception(make_error(ErrorCode::kUnsupported,
                               "[quant_scope] weights that their layers alone read (BitModel takes master weights), got {} "
                               "(layer={})",
                               decision.reason, path));
  const bool is_ternary = decision.quant.enabled();
  state_->report.layers.push_back({path, std::string(type), is_ternary ? Action::kBuilt : Action::kKept, decision.reason,
                                   is_ternary ? nn::describe(decision.quant) : "", weights});
  return decision.quant;
}

void QuantScope::made_of(const torch::nn::Module& layer) const {
  if (state_->counts) return;
  for (const auto& parameter : layer.named_parameters(false)) {
    state_->covered.insert(parameter.value().unsafeGetTensorImpl());
    if (parameter.key() == "bias") state_->report.layers.back().parameters += parameter.value().numel();
  }
}

ConversionReport QuantScope::report(const torch::nn::Module& network) const {
  ConversionReport report = state_->report;
  report_others(network, state_->covered, report);
  report.unused_rules = state_->rules.unused();
  return report;
}

}  // namespace bitlab::convert
