// A training run on disk: what `bitlab train` and `bitlab convert` leave and `bitlab deploy` reads.
//
//   config.yaml   the RunConfig           preprocess.json   how samples become the model's input
//   best.ckpt     the best epoch's model
//
// and where `bitlab train` made it
//
//   last.ckpt     what training needs to go on      report.json   what was measured
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

  void visit(config::Fields& f) {
    f("model", model, "architecture, and what it alone has");
    f("quant", quant, "quantization of its layers, with rules for some");
    f("data", data, "data set");
    f("train", train, "training");
  }
};

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

// The model as a learner of what such data are for: labels, or the next token of text that has none.
train::ModuleLearner learner_of(const Run& run);

// What training measured, besides the run itself.
struct TrainedRun {
  Run run;
  train::TrainingReport training;
  train::Evaluation test;
};

struct TrainRunOptions {
  std::string heading;        // introduces the lines
  bool resume = false;        // goes on from the folder's last.ckpt
  int64_t profile_steps = 0;  // that are profiled, behind a few of warm-up
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
