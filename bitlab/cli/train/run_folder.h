// A training run on disk: what `bitlab train` and `bitlab convert` leave and `bitlab deploy` reads.
//
//   config.yaml   the RunConfig           preprocess.json   how samples become the model's input
//   best.ckpt     the best epoch's model
//
// and where `bitlab train` made it
//
//   last.ckpt     what training needs to go on      report.json   what was measured
//   log.jsonl, metrics.csv, events.out.tfevents.*   what happened (train/sink.h), as `log` of the config says
//   environment.json                                what it ran on
//   profile.json, profile.html, trace.json          where the time of its steps went, where that was asked for
#pragma once

#include <filesystem>

#include "bitlab/config/config.h"
#include "bitlab/data/dataset.h"
#include "bitlab/models/model.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/trainer.h"

namespace bitlab::cli {

// A whole training run.
struct RunConfig {
  models::ModelConfig model{};
  MixedPrecisionConfig quant{};
  DataConfig data{};
  TrainingConfig train{};
  LogConfig log{};
  DeploymentConfig deploy{};

  RunConfig() { train.channels_last = true; }  // the zoo's networks take it

  void visit(config::Fields& f) {
    f("model", model, "architecture, and what it alone has");
    f("quant", quant, "quantization of its layers, with rules for some");
    f("data", data, "data set");
    f("train", train, "training");
    f("log", log, "what is written down while it trains");
    f("deploy", deploy, "how its network, trained in float, becomes ternary without training: `bitlab deploy --samples`");
  }
};

// What can be told of a run before its data are read. Errors: UnknownName (a data set), those of make_model().
Status check_config(const RunConfig& config);

struct Datasets {
  data::DatasetPtr training, validation, test;
};
Result<Datasets> load_datasets(const DataConfig& config);
// How the samples of a data set become a model's input.
Result<data::Preprocess> load_preprocess(const DataConfig& config);

struct Run {
  RunConfig config;
  data::Preprocess preprocess;
  std::shared_ptr<models::Model> model;
};

// What such data are for: labels, or the next token of text that has none.
std::shared_ptr<const train::Task> task_of(const data::Preprocess& preprocess);
// The model as a learner of that.
train::ModuleLearner learner_of(const Run& run);

// How many samples of each class (rows) were taken for which class (columns). Empty where there are no classes, or more than can be looked at.
struct Confusion {
  std::vector<std::string> classes;
  std::vector<std::vector<int64_t>> counts;
};

// Copies the run's parameters, and what else its state and the model's have in common, into the model, whose learned scales begin from these.
// Errors: ShapeMismatch, UnknownName (another architecture).
Status take_weights(const Run& from, models::Model& model);
// The run's network with its weights and the layers that `quant` says, whose learned scales begin from these. Errors: those of make_model().
Result<std::shared_ptr<models::Model>> requantized(const Run& run, const MixedPrecisionConfig& quant);

// What training measured, besides the run itself.
struct TrainedRun {
  Run run;
  train::TrainingReport training;
  train::Evaluation test;
  Confusion confusion{};  // on the test samples
};

struct TrainRunOptions {
  std::string heading;           // introduces the lines
  bool resume = false;           // goes on from the folder's last.ckpt, or from the beginning where there is none yet
  int64_t profile_steps = 0;     // that are profiled, behind a few of warm-up
  std::function<bool()> stop{};  // TrainerOptions::stop
  std::shared_ptr<train::Peers> peers{};  // TrainerOptions::peers
};

// Trains the model that `config` describes on `datasets`, whose sizes replace those of the config, with a progress bar and a line an epoch on
// stdout, and fills the folder. Errors: those of models, trainer and files; the folder is checked before training.
Result<TrainedRun> train_run(RunConfig config, const Datasets& datasets, const std::filesystem::path& folder,
                             const TrainRunOptions& options);

// The folder of a run that was not trained here. Errors: those of files.
Status save_run(const Run& run, const std::filesystem::path& folder);

// Errors: NotFound (a file of the folder), Corrupt, those of make_model().
Result<Run> load_run(const std::filesystem::path& folder);
Result<RunConfig> load_run_config(const std::filesystem::path& folder);

}  // namespace bitlab::cli
