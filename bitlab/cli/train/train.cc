// bitlab train: trains a model of the zoo on a data set.
#include <memory>

#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/cli/train/run_folder.h"

namespace bitlab::cli {
namespace {

struct TrainOptions {
  std::string config_file;
  std::string output;
  RunConfig config;
  ConfigFlags flags;
};

Status run(TrainOptions& options) {
  if (!options.config_file.empty()) {
    BITLAB_TRY(options.config, config::load<RunConfig>(options.config_file));
  }
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  BITLAB_TRY(const Datasets datasets, load_datasets(options.config.data));
  BITLAB_RETURN_IF_ERROR(train_run(options.config, datasets, options.output, options.config.model.name));
  fmt::print("Next: bitlab deploy {} -o {}.bit\n", options.output, options.config.model.name);
  return {};
}

std::string models() {
  std::string text = "Models:\n";
  for (const models::ModelInfo& info : models::model_list()) text += fmt::format("  {:<8} {}\n", info.name, info.summary);
  return text;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a model on a data set");
  command->add_option("-o,--output", options->output, "Folder for the checkpoint, the config and the report")->required();
  command->add_option("--config", options->config_file, "A config.yaml (or .json) to start from; flags win over it");
  options->flags.add_field(*command, "model", options->config.model.name, "architecture, see below");
  options->flags.add(*command, options->config.data, {{"name", "data"}, {"root", "data-root"}});
  options->flags.add(*command, options->config.model.quant, {{"method", "quant"}});
  options->flags.add(*command, options->config.train);
  command->footer(models() +
                  "Examples:\n"
                  "  bitlab train --model lenet5 --data mnist --quant absmean --epochs 5 -o runs/lenet5\n"
                  "  bitlab train --config runs/lenet5/config.yaml --quant none -o runs/lenet5-float");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
