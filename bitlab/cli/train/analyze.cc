// bitlab analyze: which layers of a trained network can be ternary at what price.
#include <algorithm>
#include <memory>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/from_blob.h>

#include "bitlab/cli/console.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/cli/train/run_folder.h"
#include "bitlab/convert/sensitivity.h"
#include "bitlab/nn/product_layer.h"

namespace bitlab::cli {
namespace {

struct AnalyzeOptions {
  std::string run, output, data, data_root;
  int64_t samples = 2000;
  double budget = 0.05;
  BitQuantConfig quant;
  ConfigFlags flags;
};

// The run's network with its float weights and ternary layers, whose scales begin from these.
Result<std::shared_ptr<models::Model>> ternary_model(const Run& run, const BitQuantConfig& quant) {
  if (is_static(quant.activation))
    return make_error(ErrorCode::kUnsupported, "[analyze] activations int8, int4 or none, which need no calibration, got {}",
                      name(quant.activation));
  ModelConfig config = run.config.model;
  config.quant = quant;
  BITLAB_TRY(auto model, models::make_model(config));
  const at::NoGradGuard no_grad;
  const auto trained = run.model->named_parameters();
  for (auto& parameter : model->named_parameters())
    if (trained.contains(parameter.key())) parameter.value().copy_(trained[parameter.key()]);
  for (const auto& module : model->modules(false))
    if (auto* layer = dynamic_cast<nn::ProductLayer*>(module.get()); layer != nullptr)
      layer->view().quantizer.initialize_scales(layer->view().weight);
  return model;
}

Result<double> loss_of(models::Model& model, const data::ImageDataset& set) {
  train::Classifier learner(model);
  BITLAB_TRY(const train::Evaluation evaluation, train::evaluate(learner, set));
  std::vector<int64_t> labels(set.labels.begin(), set.labels.end());
  const at::Tensor target = at::from_blob(labels.data(), {set.count}, at::kLong);
  return at::cross_entropy_loss(evaluation.logits, target).item<double>();
}

data::ImageDataset first(data::ImageDataset set, int64_t count) {
  set.count = std::min(set.count, count);
  set.pixels.resize(static_cast<size_t>(set.count * set.spec.values()));
  set.labels.resize(static_cast<size_t>(set.count));
  return set;
}

// Samples of the run's data or of what is asked for instead, in the form that the run's network takes.
Result<data::ImageDataset> measured_data(const Run& run, const AnalyzeOptions& options) {
  DataConfig data = run.config.data;
  if (!options.data.empty()) data = {.name = options.data, .root = options.data_root};
  BITLAB_TRY(Datasets sets, load_datasets(data));
  data::ImageDataset set = first(std::move(sets.validation.count > 0 ? sets.validation : sets.training), options.samples);
  const auto form = [](const data::ImageSpec& spec) {
    return fmt::format("{}x{}x{} of {} classes", spec.channels, spec.height, spec.width, spec.labels.size());
  };
  if (form(set.spec) != form(run.image))
    return make_error(ErrorCode::kShapeMismatch, "[analyze] images as the run's, {}, got {} (data={})", form(run.image),
                      form(set.spec), data.name);
  set.spec = run.image;
  return set;
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
  BITLAB_TRY(const data::ImageDataset set, measured_data(loaded, options));
  BITLAB_TRY(const auto model, ternary_model(loaded, options.quant));
  ProgressBar bar;
  int64_t measured = 0;
  BITLAB_TRY(const convert::Sensitivity sensitivity, convert::analyze(*model, [&] {
               bar.show(++measured, 0, fmt::format("measuring {}", measured));
               return loss_of(*model, set);
             }));
  bar.clear();
  MixedPrecisionConfig proposal{options.quant, convert::propose_rules(sensitivity, options.budget)};
  fmt::print("{} samples of {}\n", set.count, options.data.empty() ? loaded.config.data.name : options.data);
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
      ->check(CLI::Range(0.0, 1e9));
  options->flags.add(*command, options->quant, {{"method", "quant"}});
  command->footer("Example:\n  bitlab analyze runs/lenet5-float --quant absmean --budget 0.02 -o rules.yaml");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
