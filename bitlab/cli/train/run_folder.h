// A training run on disk: what `bitlab train` and `bitlab convert` leave and `bitlab deploy` reads.
//
//   config.yaml   the RunConfig          image.json    how pictures become the model's input
//   best.ckpt     the best epoch's state  report.json   what was measured, where `bitlab train` made it
#pragma once

#include <filesystem>
#include <functional>

#include <nlohmann/json.hpp>

#include "bitlab/config/config.h"
#include "bitlab/data/dataset.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/models/model.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/trainer.h"

namespace bitlab::cli {

struct Datasets {
  data::ImageDataset training, validation, test;
};
Result<Datasets> load_datasets(const DataConfig& config);
// How the pictures of a data set become a model's input, and the sizes that a model for them has.
Result<data::ImageSpec> load_image_spec(const DataConfig& config);
void fit_to_images(ModelConfig& model, const data::ImageSpec& image);

struct Run {
  RunConfig config;
  data::ImageSpec image;
  std::shared_ptr<models::Model> model;
};

// What training measured, besides the run itself.
struct TrainedRun {
  Run run;
  train::TrainingReport training;
  train::Evaluation test;
};

// Trains the model that `config` describes on `datasets`, whose picture size and classes replace those of the config, with a
// progress bar and a line an epoch on stdout, and fills the folder. `heading` introduces the lines. Errors: those of models, trainer
// and files; the folder is checked before training.
Result<TrainedRun> train_run(RunConfig config, const Datasets& datasets, const std::filesystem::path& folder,
                             std::string_view heading);

// The folder of a run that was not trained here: all but the report. Errors: those of files.
Status save_run(const Run& run, const std::filesystem::path& folder);

// Errors: NotFound (a file of the folder), Corrupt, those of make_model().
Result<Run> load_run(const std::filesystem::path& folder);

// Writes the .bit file, which carries the model's name and the ImageSpec. Errors: those of deploy::save().
Result<deploy::Deployment> deploy_run(const Run& run, const std::filesystem::path& path);

}  // namespace bitlab::cli
