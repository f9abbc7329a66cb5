#include "bitlab/convert/converter.h"

#include <algorithm>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/moduledict.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>

#include "bitlab/convert/internal/twins.h"
#include "bitlab/nn/layer.h"

namespace bitlab::convert {
namespace {

using torch::nn::Module;

// A layer, or a parameter of a class that is none, which can be ternary.
struct Candidate {
  struct Place {
    std::shared_ptr<Module> parent;
    std::string key;
  };
  LayerFacts facts;
  std::shared_ptr<Module> module;  // the layer, or the class that has the parameter
  bool is_layer = true;
  std::vector<Place> places;  // of a layer: where it is registered; none for the root
  at::Tensor weight;          // undefined for a layer of several
};

int64_t own_parameters(const Module& module) {
  int64_t count = 0;
  for (const auto& parameter : module.named_parameters(false)) count += parameter.value().numel();
  return count;
}

std::string join(const std::string& prefix, const std::string& key) { return prefix.empty() ? key : prefix + "." + key; }

template <class... Types>
bool is_one_of(const Module& module) {
  return ((dynamic_cast<const Types*>(&module) != nullptr) || ...);
}

bool is_container(const Module& module) {
  return is_one_of<torch::nn::SequentialImpl, torch::nn::ModuleListImpl, torch::nn::ModuleDictImpl>(module);
}

// Whether a module's own parameters may be weights of products that its forward() calls.
bool has_free_parameters(const Module& module) {
  return is_one_of<torch::nn::MultiheadAttentionImpl>(module) || !module.name().starts_with("torch::nn::");
}

// Walks a module tree in the order of registration. What several parents share appears once.
struct Walk {
  bool parameters;  // whether free ones are candidates
  std::vector<Candidate> found{};
  std::set<const Module*> seen{};

  void visit(const std::shared_ptr<Module>& module, const std::string& path) {
    if (parameters && has_free_parameters(*module))
      for (const auto& p : module->named_parameters(false))
        if (p.value().dim() >= 2 && p.value().size(0) > 1 && p.value().is_floating_point())
          found.push_back({{join(path, p.key()), "parameter", "", p.value().numel()}, module, false, {}, p.value()});
    for (const auto& child : module->named_children()) {
      if (child.value() == nullptr) continue;
      const bool first = seen.insert(child.value().get()).second;
      if (!type_of(*child.value()).empty()) {
        layer(child.value(), join(path, child.key())).places.push_back({module, child.key()});
      } else if (first) {
        visit(child.value(), join(path, child.key()));
      }
    }
  }

  // The candidate of a layer, which several places may share.
  Candidate& layer(const std::shared_ptr<Module>& module, const std::string& path) {
    for (Candidate& known : found)
      if (known.is_layer && known.module == module) return known;
    const auto own = module->named_parameters(false);
    const at::Tensor weight = own.contains("weight") ? own["weight"] : at::Tensor();
    int64_t size = 0;
    for (const auto& p : own)
      if (p.value().dim() >= 2) size += p.value().numel();
    return found.emplace_back(Candidate{{path, type_of(*module), "", size}, module, true, {}, weight});
  }
};

std::vector<Candidate> candidates(Module& module, const ConvertOptions& options, bool parameters) {
  Walk walk{parameters};
  const std::shared_ptr<Module> root(std::shared_ptr<void>(), &module);  // read while the caller's reference lives
  if (type_of(module).empty()) {
    walk.visit(root, "");
  } else {
    walk.layer(root, "");
  }
  for (size_t i = 0; i < walk.found.size(); ++i) {
    LayerFacts& facts = walk.found[i].facts;
    facts.index = static_cast<int64_t>(i);
    facts.count = static_cast<int64_t>(walk.found.size());
    const auto tag = options.tags.find(facts.path);
    if (tag != options.tags.end()) facts.tag = tag->second;
  }
  return std::move(walk.found);
}

// Puts a twin into a container that holds a layer.
void place(const Candidate::Place& at, const std::shared_ptr<Module>& layer, const Twin& twin) {
  if (auto* sequential = dynamic_cast<torch::nn::SequentialImpl*>(at.parent.get()); sequential != nullptr) {
    for (torch::nn::AnyModule& child : *sequential)
      if (child.ptr() == layer) child = twin.any;
  } else if (auto* list = dynamic_cast<torch::nn::ModuleListImpl*>(at.parent.get()); list != nullptr) {
    for (std::shared_ptr<Module>& child : *list)
      if (child == layer) child = twin.module;
  } else if (auto* dict = dynamic_cast<torch::nn::ModuleDictImpl*>(at.parent.get()); dict != nullptr) {
    for (auto& child : *dict)
      if (child.value() == layer) child.value() = twin.module;
  }
  at.parent->replace_module(at.key, twin.module);
}

// Whether containers alone hold a layer.
bool is_replaceable(const Candidate& c) {
  return !c.places.empty() &&
         std::all_of(c.places.begin(), c.places.end(), [](const Candidate::Place& at) { return is_container(*at.parent); });
}

bool is_recurrent(const Candidate& c) { return c.facts.type == "lstm" || c.facts.type == "gru"; }

// Why others cannot stand in the place of what reads a layer's weights; empty: they can.
std::string why_not_intercepted(const Candidate& c) {
  if (c.facts.type == "embedding_bag") return "embedding_bag outside of a container";
  const bool has_projections = is_recurrent(c) && c.module->named_parameters(false).contains("weight_hr_l0");
  return has_projections ? c.facts.type + " with proj_size" : "";
}

// Decides for one candidate after the other, and changes the module at the end alone.
struct Converter {
  RuleSet rules;
  Outside outside;
  std::vector<std::pair<Candidate, Twin>> twins{};
  Conversion conversion{};

  void decide(const Candidate& c) {
    const Decision decision = rules.decide(c.facts);
    LayerReport report{c.facts.path,    c.facts.type, Action::kKept,
                       decision.reason, "",           c.is_layer ? own_parameters(*c.module) : c.facts.size};
    if (decision.quant.enabled()) convert(c, decision, report);
    conversion.report.layers.push_back(std::move(report));
  }

  void convert(const Candidate& c, const Decision& decision, LayerReport& report) {
    if (is_replaceable(c) && !decision.master) {
      report.action = Action::kReplaced;
      twins.emplace_back(c, make_twin(*c.module, decision.quant));
    } else if (outside == Outside::kListed || (outside == Outside::kIntercepted && why_not_intercepted(c).empty())) {
      report.action = Action::kIntercepted;
      intercept(c, decision);
    } else {
      report.action = Action::kSkipped;
      report.reason = why_not_intercepted(c);
      if (report.reason.empty())
        report.reason =
            decision.master ? "a master weight: BitModel intercepts these" : "a typed member: BitModel intercepts these";
      return;
    }
    report.quant = nn::describe(decision.quant);
  }

  void intercept(const Candidate& c, const Decision& decision) {
    using Use = nn::Quantizer::Use;
    const auto add = [&](const std::string& name, const at::Tensor& weight, BitQuantConfig quant, Use use) {
      conversion.interceptions.push_back({c.is_layer ? join(c.facts.path, name) : c.facts.path, c.facts.path, weight,
                                          std::move(quant), window_of(*c.module), use, decision.master});
    };
    if (!is_recurrent(c) || outside == Outside::kListed)
      return add("weight", c.weight, decision.quant, c.facts.type == "embedding" ? Use::kValue : Use::kProduct);
    BitQuantConfig quant = decision.quant;
    quant.smoothing = 0;
    for (const auto& p : c.module->named_parameters(false)) {
      if (p.value().dim() != 2) continue;
      add(p.key(), p.value(), quant, p.key().starts_with("weight_hh") ? Use::kHiddenProduct : Use::kProduct);
    }
  }

  void report_rest(const Module& module, const std::vector<Candidate>& list) {
    std::set<const void*> covered;
    for (const Candidate& c : list) {
      covered.insert(c.weight.unsafeGetTensorImpl());
      if (c.is_layer)
        for (const auto& p : c.module->named_parameters(false)) covered.insert(p.value().unsafeGetTensorImpl());
    }
    report_others(module, covered, conversion.report);
  }
};

}  // namespace

void report_others(const Module& module, const std::set<const void*>& covered, ConversionReport& report) {
  const auto add = [&](const std::string& path, const Module& m) {
    int64_t count = 0;
    for (const auto& p : m.named_parameters(false))
      if (!covered.contains(p.value().unsafeGetTensorImpl())) count += p.value().numel();
    if (count > 0) report.layers.push_back({path, m.name(), Action::kSkipped, "no ternary form", "", count});
  };
  add("", module);
  for (const auto& item : module.named_modules(std::string(), false)) add(item.key(), *item.value());
}

Result<Conversion> convert_module(Module& module, const MixedPrecisionConfig& config, const ConvertOptions& options,
                                  Outside outside) {
  BITLAB_TRY(RuleSet rules, RuleSet::create(config));
  const std::vector<Candidate> list = candidates(module, options, outside != Outside::kSkipped);
  Converter converter{std::move(rules), outside};
  for (const Candidate& c : list) {
    try {
      converter.decide(c);
    } catch (const Exception& error) {
      return make_error(error.code(), "{} (layer={})", error.what(), c.facts.path);
    } catch (const c10::Error& error) {
      return make_error(ErrorCode::kInvalidArgument, "[convert] a layer of float32 weights, got '{}' (layer={})",
                        error.what_without_backtrace(), c.facts.path);
    }
  }
  converter.report_rest(module, list);
  for (const auto& [candidate, twin] : converter.twins)
    for (const Candidate::Place& at : candidate.places) place(at, candidate.module, twin);
  converter.conversion.report.unused_rules = converter.rules.unused();
  return std::move(converter.conversion);
}

Result<ConversionReport> BitConverter::convert(Module& module, const MixedPrecisionConfig& config,
                                               const ConvertOptions& options) {
  BITLAB_TRY(Conversion conversion, convert_module(module, config, options, Outside::kSkipped));
  return std::move(conversion.report);
}

}  // namespace bitlab::convert
