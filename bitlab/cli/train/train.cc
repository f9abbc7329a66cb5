// bitlab train: trains a model of the zoo on a data set.
#include <memory>

#include "bitlab/cli/interrupts.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/cli/train/presets.h"
#include "bitlab/cli/train/run_folder.h"

namespace bitlab::cli {
namespace {

struct TrainOptions {
  std::string preset, config_file, rules_file, output;
  std::vector<std::string> settings;  // "model.hidden=[64]"
  bool resume = false;
  int64_t profile_steps = 0;
  bool example = false, schema = false;
  std::string validated;  // a file
  RunConfig config;
  ConfigFlags flags;
  PathFlags paths;
};

constexpr std::string_view kExampleHeading =
    "An experiment: bitlab train --config FILE -o FOLDER. What is left out keeps its default; a flag by a field's path, as "
    "--train.epochs 3, wins over the file. channels, height, width and classes of a model are replaced by those of the "
    "data.";

Status set(RunConfig& config, const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos)
    return make_error(ErrorCode::kInvalidArgument, "[train] --set field=value, got '{}'", setting);
  return config::assign_at(config::table_of(config), setting.substr(0, equals), setting.substr(equals + 1));
}

// The config of a run that begins: of files, of flags that win over these, and of single settings that win over all.
Status assemble(TrainOptions& options) {
  if (!options.preset.empty()) {
    if (!options.config_file.empty())
      return make_error(ErrorCode::kInvalidArgument, "[train] one of --preset and --config, got both");
    BITLAB_TRY(const auto path, preset_path(options.preset));
    options.config_file = path.string();
  }
  if (!options.config_file.empty()) {
    BITLAB_TRY(options.config, config::load<RunConfig>(options.config_file));
  }
  if (!options.rules_file.empty()) {
    BITLAB_TRY(options.config.quant, config::load<MixedPrecisionConfig>(options.rules_file));
  }
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  BITLAB_RETURN_IF_ERROR(options.paths.apply(options.config));
  for (const std::string& setting : options.settings) BITLAB_RETURN_IF_ERROR(set(options.config, setting));
  return {};
}

// The config of the run that is in the folder, which may go on on another device.
Status take_up(TrainOptions& options) {
  std::string given = options.flags.given("--device") + options.paths.given("--train.device");
  if (!options.config_file.empty()) given = "--config";
  if (!options.preset.empty()) given = "--preset";
  if (!options.rules_file.empty()) given = "--rules";
  if (!options.settings.empty()) given = "--set";
  if (!given.empty())
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] --resume with the run's own config alone, but for --device, got {}", given);
  BITLAB_TRY(options.config, load_run_config(options.output));
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  return options.paths.apply(options.config);
}

// A file whose every value is of its type and in its range, about a network that can be made and data that have a name.
Status validate(const std::string& file) {
  BITLAB_TRY(const RunConfig config, config::load<RunConfig>(file));
  if (Status status = check_config(config); !status.ok())
    return make_error(status.error().code, "{} (path={})", status.error().message, file);
  fmt::print("{} is valid.\n", file);
  return {};
}

Status run(TrainOptions& options) {
  if (options.example) {
    BITLAB_RETURN_IF_ERROR(assemble(options));
    fmt::print("{}", config::example(options.config, kExampleHeading));
    return {};
  }
  if (options.schema) {
    fmt::print("{}", config::schema(RunConfig(), "An experiment of BitLab"));
    return {};
  }
  if (!options.validated.empty()) return validate(options.validated);
  if (options.output.empty())
    return make_error(ErrorCode::kInvalidArgument, "[train] a folder for the run (--output), got none");
  BITLAB_RETURN_IF_ERROR(options.resume ? take_up(options) : assemble(options));
  BITLAB_TRY(const Datasets datasets, load_datasets(options.config.data));
  const std::string& name = options.config.model.name();
  BITLAB_TRY(const auto peers, train::torchrun_peers());
  const Interrupts interrupts;
  const auto trained = train_run(options.config, datasets, options.output,
                                 {.heading = name,
                                  .resume = options.resume,
                                  .profile_steps = options.profile_steps,
                                  .stop = [] { return Interrupts::signal() != 0; },
                                  .peers = peers});
  if (!trained.ok() && trained.error().code == ErrorCode::kCancelled)
    return make_error(ErrorCode::kCancelled, "{}; stopped by {}, to go on: bitlab train --resume -o {}",
                      trained.error().message,
                      Interrupts::signal() == 0 ? "another process" : signal_name(Interrupts::signal()), options.output);
  if (!trained.ok() && peers != nullptr && trained.error().code == ErrorCode::kIoError)
    return make_error(ErrorCode::kIoError, "{}; to go on, in all: bitlab train --resume -o {}", trained.error().message,
                      options.output);
  BITLAB_RETURN_IF_ERROR(trained);
  if (train::rank_of(peers) > 0) return {};
  fmt::print("Next: bitlab deploy {} -o {}.bit\n", options.output, name);
  return {};
}

std::string models_and_presets() {
  std::string text = "Models:\n";
  for (const models::ModelInfo& info : models::model_list())
    text += fmt::format("  {:<15} {} ({})\n", info.name, info.summary, info.domain);
  text += "Presets:\n";
  for (const Preset& preset : presets()) text += fmt::format("  {:<22} {}\n", preset.name, preset.summary);
  return text;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a model on a data set");
  command->add_option("-o,--output", options->output, "Folder for the checkpoints, the config and the report");
  command->add_flag("--resume", options->resume, "Go on with the run that is in the folder, to the same bits");
  command
      ->add_option(
          "--profile", options->profile_steps,
          "Show where the time and memory of so many steps go, layer by layer, forward and back (the host waits for a "
          "device behind each); writes profile.html, profile.json and trace.json (for ui.perfetto.dev) into the folder")
      ->type_name("STEPS")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--preset", options->preset, "An experiment that comes with BitLab, see below; flags win over it")
      ->type_name("NAME");
  command->add_option("--config", options->config_file, "A config.yaml (or .json) to start from; flags win over it");
  command->add_option("--rules", options->rules_file,
                      "A .yaml or .json file with a quantization and rules, as `bitlab analyze` writes it");
  command->add_option(
      "--set", options->settings,
      "Any field of the config, as train.epochs=3; wins over all else. Sizes and classes of the model are the data set's");
  RunConfig& config = options->config;
  config::Fields model;
  config.model.visit(model);
  config::Field name = *model.begin();
  name.help = "architecture, see below";
  options->flags.add_field(*command, "model", name);
  options->flags.add(*command, config.data, {{"name", "data"}, {"root", "data-root"}, {"options", "data-options"}});
  options->flags.add(*command, config.data.augment);
  options->flags.add(*command, config.quant.quant, {{"method", "quant"}});
  options->flags.add(*command, config.train);
  options->paths.add(*command, config);
  command->add_flag("--example", options->example,
                    "Print a config file with every field, its help, type and value, as the other flags have it");
  command->add_flag("--schema", options->schema, "Print a JSON schema of config files, for editors");
  command->add_option("--validate", options->validated, "Check a config file, and train nothing")->type_name("FILE");
  command->footer(
      models_and_presets() +
      "Every field of the config is a flag by its path, too: --train.epochs 3, --model.hidden '[64]'.\n"
      "Examples:\n"
      "  bitlab train --model lenet5 --data mnist --quant absmean --epochs 5 -o runs/lenet5\n"
      "  bitlab train --preset lenet5_mnist -o runs/lenet5\n"
      "  bitlab train --config runs/lenet5/config.yaml --quant none -o runs/lenet5-float\n"
      "  bitlab train --example > exp.yaml; bitlab train --config exp.yaml --train.learning_rate 0.1 -o runs/exp\n"
      "  bitlab train --model mlp --model.hidden '[256, 64]' --rules rules.yaml -o runs/mlp\n"
      "  bitlab train --resume -o runs/mlp\n"
      "  bitlab train --preset gpt_shakespeare --device cuda -o runs/gpt\n"
      "  bitlab train --model lenet5 --data mnist --epochs 1 --profile 20 -o runs/profiled\n"
      "  torchrun --nproc-per-node 2 --no-python bitlab train --model lenet5 --data mnist -o runs/two");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
