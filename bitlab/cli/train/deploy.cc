// bitlab deploy: a training run becomes a .bit file.
#include <memory>

#include "bitlab/base/file.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/deployment.h"
#include "bitlab/cli/train/flags.h"

namespace bitlab::cli {
namespace {

struct DeployOptions {
  std::string run;
  std::string output;
  int64_t samples = 0;
  std::string rules_file;
  MixedPrecisionConfig quant;
  ConfigFlags flags;
};

// The run's network made ternary without training, where that is asked for, with what it cost.
Result<Run> network_of(DeployOptions& options) {
  BITLAB_TRY(Run loaded, load_run(options.run));
  if (options.samples == 0) {
    const std::string given = options.rules_file.empty() ? options.flags.given() : "--rules";
    if (given.empty()) return loaded;
    return make_error(ErrorCode::kInvalidArgument, "[deploy] {} with --samples, got none", given);
  }
  if (!options.rules_file.empty()) {
    BITLAB_TRY(options.quant, config::load<MixedPrecisionConfig>(options.rules_file));
  }
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  BITLAB_TRY(Fitted fitted, fit_run(loaded, options.quant, options.samples));
  std::vector<std::vector<std::string>> table{{"layer", "error", "fitted"}};
  for (const deploy::LayerFit& layer : fitted.report.layers)
    table.push_back({layer.name, fmt::format("{:.4g}", layer.error_before), fmt::format("{:.4g}", layer.error_after)});
  fmt::print("{}{} on the test samples: {:.5g} in float, {:.5g} ternary, {:.5g} fitted to {} samples\n", format_table(table),
             fitted.goal.metric, *fitted.report.evaluated_float, *fitted.report.evaluated_before,
             *fitted.report.evaluated_after, options.samples);
  return std::move(fitted.run);
}

Status run(DeployOptions& options) {
  BITLAB_TRY(const Run loaded, network_of(options));
  const std::filesystem::path output(options.output);
  BITLAB_RETURN_IF_ERROR(ensure_writable_folder(output.has_parent_path() ? output.parent_path() : "."));
  BITLAB_TRY(const deploy::Deployment deployment, deploy_run(loaded, output));
  const auto ratio = [&](int64_t bytes) {
    return fmt::format("{:.1f}x", static_cast<double>(deployment.float32_weight_bytes) / static_cast<double>(bytes));
  };
  const auto& d = deployment;
  fmt::print("{}", format_table({{options.output, "bytes", "", "smaller than float32"},
                                 {"file", std::to_string(d.file_bytes), format_bytes(d.file_bytes), ratio(d.file_bytes)},
                                 {"weights in the file", std::to_string(d.weight_file_bytes),
                                  format_bytes(d.weight_file_bytes), ratio(d.weight_file_bytes)},
                                 {"weights in memory", std::to_string(d.weight_bytes), format_bytes(d.weight_bytes),
                                  ratio(d.weight_bytes)}}));
  for (const std::string& name : d.unread) fmt::print("Left out, since evaluation does not read it: {}\n", name);
  if (d.parity.exact) {
    fmt::print("LibTorch and the runtime give the same bits.\n");
  } else {
    fmt::print("LibTorch and the runtime differ by at most {:.2g} (largest output {:.2g}).\n", d.parity.max_difference,
               d.parity.max_magnitude);
  }
  const DataConfig& data = loaded.config.data;
  std::string flags = data.root.empty() ? "" : " --data-root " + data.root;
  for (const auto& [name, value] : data.options) flags += fmt::format(" --data-option '{}={}'", name, value);
  fmt::print("Next: bitlab-run run {} --data {}{}\n", options.output, data.name, flags);
  return {};
}

}  // namespace

void add_deploy(CLI::App& app, Action& action) {
  auto options = std::make_shared<DeployOptions>();
  CLI::App* command = app.add_subcommand("deploy", "Write a trained model as a .bit file for the torch-free runtime");
  command->add_option("run", options->run, "Folder that `bitlab train` made")->required();
  command->add_option("-o,--output", options->output, "The .bit file")->required();
  command
      ->add_option("--samples", options->samples,
                   "Make a network that was trained in float ternary, without training, fitted to so many training samples; "
                   "how, `deploy` of the run's config says")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--rules", options->rules_file,
                      "A .yaml or .json file with a quantization and rules, for --samples; flags win over it");
  options->flags.add(*command, options->quant.quant, {{"method", "quant"}});
  command->footer(
      "Examples:\n  bitlab deploy runs/lenet5 -o lenet5.bit\n"
      "  bitlab deploy runs/lenet5-float --samples 256 --quant twn --granularity channel -o lenet5.bit");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
