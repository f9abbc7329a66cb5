// bitlab analyze: which layers of a trained network can be ternary at what price.
#include <algorithm>
#include <memory>

#include <fmt/ranges.h>

#include "bitlab/base/text.h"
#include "bitlab/cli/console.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/cli/train/run_folder.h"
#include "bitlab/convert/sensitivity.h"

namespace bitlab::cli {
namespace {

struct AnalyzeOptions {
  std::string run, output, data, data_root;
  int64_t samples = 2000;
  double budget = 0.05;
  BitQuantConfig quant;
  ConfigFlags flags;
};

// Layers that need no calibration.
Result<std::shared_ptr<models::Model>> ternary_model(const Run& run, const BitQuantConfig& quant) {
  if (is_static(quant.activation))
    return make_error(ErrorCode::kUnsupported, "[analyze] activations int8, int4 or none, which need no calibration, got {}",
                      name(quant.activation));
  return requantized(run, {.quant = quant});
}

Result<double> loss_of(const Run& run, const data::DatasetPtr& set) {
  train::ModuleLearner learner = learner_of(run);
  BITLAB_TRY(const train::Evaluation evaluation, train::evaluate(learner, set));
  return evaluation.at("loss");
}

// Samples that become inputs as the run's do.
class AsTrained final : public data::Dataset {
 public:
  AsTrained(data::DatasetPtr set, data::Preprocess preprocess) : set_(std::move(set)), preprocess_(std::move(preprocess)) {}
  int64_t size() const override { return set_->size(); }
  Result<data::Sample> get(int64_t index) const override { return set_->get(index); }
  data::Preprocess preprocess() const override { return preprocess_; }

 private:
  data::DatasetPtr set_;
  data::Preprocess preprocess_;
};

// Samples of the run's data or of what is asked for instead, in the form that the run's network takes.
Result<data::DatasetPtr> measured_data(const Run& run, const AnalyzeOptions& options) {
  DataConfig data;
  data.name = options.data;
  data.root = options.data_root;
  if (options.data.empty()) data = run.config.data;
  BITLAB_TRY(const Datasets sets, load_datasets(data));
  const data::DatasetPtr set = first(sets.validation->size() > 0 ? sets.validation : sets.training, options.samples);
  const auto wanted = run.preprocess.sizes(), found = set->preprocess().sizes();
  if (wanted != found)
    return make_error(ErrorCode::kShapeMismatch, "[analyze] data as the run's, {}, got {} (data={})", wanted, found,
                      data.name);
  return data::DatasetPtr(std::make_shared<AsTrained>(set, run.preprocess));
}

void print(const convert::Sensitivity& s, const std::vector<QuantRule>& rules) {
  std::vector<std::vector<std::string>> table{{"layer", "parameters", "loss", "increase", "proposal"}};
  for (const auto& layer : s.layers) {
    const bool kept =
        std::any_of(rules.begin(), rules.end(), [&](const QuantRule& rule) { return rule.path == layer.path; });
    table.push_back({layer.path, std::to_string(layer.parameters), fmt::format("{:.5f}", layer.loss),
                     fmt::format("{:+.5f}", s.increase(layer)), kept ? "float" : "ternary"});
  }
  fmt::print("{}\nloss {:.5f} in float, {:.5f} with every layer ternary\n", format_table(table), s.float_loss,
             s.ternary_loss);
}

Status run(AnalyzeOptions& options) {
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  BITLAB_TRY(Run loaded, load_run(options.run));
  BITLAB_TRY(const data::DatasetPtr set, measured_data(loaded, options));
  Run ternary = loaded;
  BITLAB_TRY(ternary.model, ternary_model(loaded, options.quant));
  ProgressBar bar;
  int64_t measured = 0;
  BITLAB_TRY(const convert::Sensitivity sensitivity, convert::analyze(*ternary.model, [&] {
               bar.show(++measured, 0, fmt::format("measuring {}", measured));
               return loss_of(ternary, set);
             }));
  bar.clear();
  MixedPrecisionConfig proposal{options.quant, convert::propose_rules(sensitivity, options.budget)};
  fmt::print("{} samples of {}\n", set->size(), options.data.empty() ? loaded.config.data.name : options.data);
  print(sensitivity, proposal.rules);
  if (options.output.empty()) {
    fmt::print("\nRules for a budget of {} of loss:\n{}", options.budget, config::to_yaml(proposal));
    return {};
  }
  return config::save(proposal, options.output);
}

}  // namespace

void add_analyze(CLI::App& app, Action& action) {
  auto options = std::make_shared<AnalyzeOptions>();
  CLI::App* command =
      app.add_subcommand("analyze", "Make one layer after the other ternary, print the loss, and propose rules");
  command->add_option("run", options->run, "Folder that `bitlab train` made, of a float network as a rule")->required();
  command->add_option("-o,--output", options->output, "Write the proposed rules to this .yaml or .json file");
  auto* data = command->add_option("--data", options->data, "Data set to measure on; without it that of the run");
  command->add_option("--data-root", options->data_root, "Folder of the data set")->needs(data);
  command
      ->add_option("--samples", options->samples,
                   "Measure on at most this many training samples, held out where the run holds some out")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command
      ->add_option("--budget", options->budget,
                   "How much the loss may rise: layers are kept in float until it does not rise by more")
      ->capture_default_str()
      ->check(NumberIn(0.0, 1e9));
  options->flags.add(*command, options->quant, {{"method", "quant"}});
  command->footer("Example:\n  bitlab analyze runs/lenet5-float --quant absmean --budget 0.02 -o rules.yaml");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
