#include "bitlab/cli/train/run_folder.h"

#include <ATen/ops/randn.h>
#include <torch/utils.h>

#include "bitlab/base/file.h"
#include "bitlab/base/heap.h"
#include "bitlab/base/version.h"
#include "bitlab/cli/console.h"
#include "bitlab/config/io.h"
#include "bitlab/train/checkpoint.h"

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Paths {
  fs::path config, image, checkpoint, report;
  explicit Paths(const fs::path& folder)
      : config(folder / "config.yaml"),
        image(folder / "image.json"),
        checkpoint(folder / "best.ckpt"),
        report(folder / "report.json") {}
};

Json report_of(const TrainedRun& trained) {
  Json epochs = Json::array();
  for (const train::EpochReport& epoch : trained.training.epochs)
    epochs.push_back(
        {{"epoch", epoch.epoch}, {"loss", epoch.loss}, {"accuracy_validation", epoch.accuracy}, {"seconds", epoch.seconds}});
  return {{"version", version()},
          {"model", trained.run.config.model.name},
          {"accuracy_test", trained.test.accuracy},
          {"images_test", trained.test.logits.size(0)},
          {"accuracy_validation", trained.training.best_accuracy},
          {"best_epoch", trained.training.best_epoch},
          {"seconds", trained.training.seconds},
          {"epochs", std::move(epochs)}};
}

// What the trainer tells a person.
train::TrainerOptions console(ProgressBar& bar, const fs::path& checkpoint, int64_t epochs, bool validated) {
  train::TrainerOptions options;
  options.checkpoint = checkpoint;
  options.on_step = [&bar](const train::StepReport& r) {
    bar.show(r.step, r.steps,
             fmt::format("epoch {}/{}  loss {:.4f}  lr {:.2e}", r.epoch, r.epochs, r.loss, r.learning_rate));
  };
  options.on_epoch = [&bar, epochs, validated](const train::EpochReport& r) {
    bar.clear();
    const std::string accuracy = validated ? fmt::format("  validation {:6.2f} %", 100 * r.accuracy) : "";
    fmt::print("  epoch {}/{}  loss {:.4f}{}  {:.1f} s\n", r.epoch, epochs, r.loss, accuracy, r.seconds);
    std::fflush(stdout);
  };
  return options;
}

// What says which model a checkpoint belongs to.
Status begin_folder(const RunConfig& config, const data::ImageSpec& image, const fs::path& folder) {
  const Paths paths(folder);
  BITLAB_RETURN_IF_ERROR(ensure_writable_folder(folder));
  BITLAB_RETURN_IF_ERROR(config::save(config, paths.config));
  return write_file_atomic(paths.image, std::string_view(image.to_json()));
}

}  // namespace

Result<Datasets> load_datasets(const DataConfig& config) {
  const data::DataOptions options{.root = config.root, .limit = config.limit};
  BITLAB_TRY(const data::ImageDataset training, data::load_dataset(config.name, data::Split::kTrain, options));
  BITLAB_TRY(auto parts, data::hold_out(training, config.validation));
  BITLAB_TRY(auto test, data::load_dataset(config.name, data::Split::kTest, options));
  return Datasets{std::move(parts.kept), std::move(parts.held_out), std::move(test)};
}

Result<data::ImageSpec> load_image_spec(const DataConfig& config) {
  BITLAB_TRY(data::ImageDataset set, data::load_dataset(config.name, data::Split::kTest, {.root = config.root, .limit = 1}));
  return std::move(set.spec);
}

void fit_to_images(ModelConfig& model, const data::ImageSpec& image) {
  model.channels = image.channels;
  model.height = image.height;
  model.width = image.width;
  model.classes = static_cast<int64_t>(image.labels.size());
}

Result<TrainedRun> train_run(RunConfig config, const Datasets& datasets, const fs::path& folder, std::string_view heading) {
  keep_freed_memory();
  const Paths paths(folder);
  const data::ImageSpec& image = datasets.training.spec;
  fit_to_images(config.model, image);
  torch::manual_seed(static_cast<uint64_t>(config.train.seed));
  BITLAB_TRY(auto model, models::make_model(config.model));
  BITLAB_RETURN_IF_ERROR(begin_folder(config, image, folder));
  fmt::print("{}: {} training, {} validation, {} test images of {}\n", heading, datasets.training.count,
             datasets.validation.count, datasets.test.count, config.data.name);
  ProgressBar bar;
  train::Classifier learner(*model);
  train::BitTrainer trainer(learner, config.train,
                            console(bar, paths.checkpoint, config.train.epochs, datasets.validation.count > 0));
  TrainedRun trained{{config, image, model}, {}, {}};
  BITLAB_TRY(trained.training, trainer.fit(datasets.training, datasets.validation));
  BITLAB_TRY(trained.test, train::evaluate(learner, datasets.test));
  fmt::print("  test accuracy {:.2f} % (epoch {})\n", 100 * trained.test.accuracy, trained.training.best_epoch);
  BITLAB_RETURN_IF_ERROR(write_file_atomic(paths.report, std::string_view(report_of(trained).dump(2) + "\n")));
  return trained;
}

Status save_run(const Run& run, const fs::path& folder) {
  BITLAB_RETURN_IF_ERROR(begin_folder(run.config, run.image, folder));
  return train::save_checkpoint(train::Classifier(*run.model).state(), Paths(folder).checkpoint);
}

Result<Run> load_run(const fs::path& folder) {
  const Paths paths(folder);
  Run run;
  BITLAB_TRY(run.config, config::load<RunConfig>(paths.config));
  BITLAB_TRY(const std::string image, read_file(paths.image));
  BITLAB_TRY(run.image, data::ImageSpec::from_json(image));
  BITLAB_TRY(run.model, models::make_model(run.config.model));
  BITLAB_TRY(const train::State state, train::load_checkpoint(paths.checkpoint));
  train::Classifier learner(*run.model);
  BITLAB_RETURN_IF_ERROR(learner.load(state));
  return run;
}

Result<deploy::Deployment> deploy_run(const Run& run, const fs::path& path) {
  constexpr int64_t kExamples = 16;
  torch::manual_seed(0);
  const at::Tensor example = at::randn({kExamples, run.image.channels, run.image.height, run.image.width});
  return deploy::save(*run.model, example, path, {{"model", run.config.model.name}, {"image", run.image.to_json()}});
}

}  // namespace bitlab::cli
