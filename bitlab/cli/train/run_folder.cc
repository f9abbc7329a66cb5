#include "bitlab/cli/train/run_folder.h"

#include <torch/utils.h>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/heap.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/base/version.h"
#include "bitlab/cli/console.h"
#include "bitlab/config/io.h"
#include "bitlab/profile/profiler.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/profiler.h"

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;

struct Paths {
  fs::path config, preprocess, best, last, report, profile, page, trace;
  explicit Paths(const fs::path& folder)
      : config(folder / "config.yaml"),
        preprocess(folder / "preprocess.json"),
        best(folder / "best.ckpt"),
        last(folder / "last.ckpt"),
        report(folder / "report.json"),
        profile(folder / "profile.json"),
        page(folder / "profile.html"),
        trace(folder / "trace.json") {}
};

Json json_of(const std::vector<train::Metric>& metrics) {
  Json json = Json::object();
  for (const train::Metric& metric : metrics) json[metric.name] = metric.value;
  return json;
}

Json report_of(const TrainedRun& trained) {
  Json epochs = Json::array();
  for (const train::EpochReport& epoch : trained.training.epochs)
    epochs.push_back(
        {{"epoch", epoch.epoch}, {"loss", epoch.loss}, {"validation", json_of(epoch.metrics)}, {"seconds", epoch.seconds}});
  return {{"version", version()},
          {"model", trained.run.config.model.name()},
          {"test", json_of(trained.test.metrics)},
          {"samples_test", trained.test.samples},
          {"validation", json_of(trained.training.best)},
          {"best_epoch", trained.training.best_epoch},
          {"best_by", trained.training.best_by},
          {"seconds", trained.training.seconds},
          {"epochs", std::move(epochs)}};
}

// The goal's metric: "accuracy 98.20 %", "perplexity 4.1200".
std::string goal_text(const train::Goal& goal, const std::vector<train::Metric>& metrics) {
  const double value = train::Evaluation{0, metrics}.at(goal.metric);
  return goal.metric.ends_with("accuracy") ? fmt::format("{} {:6.2f} %", goal.metric, 100 * value)
                                           : fmt::format("{} {:.4f}", goal.metric, value);
}

// What the trainer tells a person.
void show_on(ProgressBar& bar, int64_t epochs, const train::Goal& goal, train::TrainerOptions& options) {
  options.on_step = [&bar](const train::StepReport& r) {
    bar.show(r.step, r.steps,
             fmt::format("epoch {}/{}  loss {:.4f}  lr {:.2e}", r.epoch, r.epochs, r.loss, r.learning_rate));
  };
  options.on_epoch = [&bar, epochs, goal](const train::EpochReport& r) {
    bar.clear();
    const std::string validation = r.metrics.empty() ? "" : "  validation " + goal_text(goal, r.metrics);
    fmt::print("  epoch {}/{}  loss {:.4f}{}  {:.1f} s\n", r.epoch, epochs, r.loss, validation, r.seconds);
    std::fflush(stdout);
  };
}

train::TrainerOptions trainer_options(const RunConfig& config, const Paths& paths, bool resume) {
  train::TrainerOptions options{.best = paths.best, .checkpoint = paths.last, .resume = resume};
  const AugmentConfig& augment = config.data.augment;
  if (augment.crop > 0) options.transforms.push_back(data::random_crop(augment.crop));
  if (augment.flip) options.transforms.push_back(data::random_flip());
  if (augment.randaugment > 0) options.transforms.push_back(data::rand_augment(augment.randaugment, augment.magnitude));
  if (augment.cutout > 0) options.transforms.push_back(data::cutout(augment.cutout));
  return options;
}

Status report_profile(const train::TrainingProfiler& profiler, const std::string& model, const Paths& paths) {
  BITLAB_TRY(profile::Profile profile, profiler.profile());
  profile.model = model;
  BITLAB_RETURN_IF_ERROR(write_file_atomic(paths.profile, std::string_view(profile.json() + "\n")));
  BITLAB_RETURN_IF_ERROR(write_file_atomic(paths.page, std::string_view(profile.html())));
  BITLAB_RETURN_IF_ERROR(write_file_atomic(paths.trace, std::string_view(profile.chrome_trace())));
  fmt::print("\n{}\n", profile.table());
  return {};
}

// What says which model a checkpoint belongs to.
Status begin_folder(const Run& run, const fs::path& folder) {
  const Paths paths(folder);
  BITLAB_RETURN_IF_ERROR(ensure_writable_folder(folder));
  BITLAB_RETURN_IF_ERROR(config::save(run.config, paths.config));
  return write_file_atomic(paths.preprocess, std::string_view(run.preprocess.to_json()));
}

data::DataOptions options_of(const DataConfig& config) {
  return {.root = config.root, .limit = config.limit, .own = config.options};
}

Result<Run> make_run(RunConfig config, const data::Preprocess& preprocess) {
  config.model.fit(preprocess.sizes());
  torch::manual_seed(static_cast<uint64_t>(config.train.seed));
  BITLAB_TRY(auto model, models::make_model(config.model, config.quant));
  return Run{std::move(config), preprocess, std::move(model)};
}

}  // namespace

Result<Datasets> load_datasets(const DataConfig& config) {
  BITLAB_TRY(const auto training, data::load_dataset(config.name, data::Split::kTrain, options_of(config)));
  BITLAB_TRY(const auto parts, data::hold_out(training, config.validation));
  BITLAB_TRY(const auto test, data::load_dataset(config.name, data::Split::kTest, options_of(config)));
  return Datasets{parts.kept, parts.held_out, test};
}

Result<data::Preprocess> load_preprocess(const DataConfig& config) {
  data::DataOptions options = options_of(config);
  options.limit = 1;
  BITLAB_TRY(const data::DatasetPtr set, data::load_dataset(config.name, data::Split::kTest, options));
  return set->preprocess();
}

train::ModuleLearner learner_of(const Run& run) {
  if (const data::TextSpec* text = run.preprocess.text(); text != nullptr && text->labels.empty())
    return {*run.model, std::make_shared<train::NextToken>()};
  return {*run.model, std::make_shared<train::Classification>()};
}

Result<TrainedRun> train_run(RunConfig config, const Datasets& datasets, const fs::path& folder,
                             const TrainRunOptions& options) {
  keep_freed_memory();
  BITLAB_TRY(const Run run, make_run(std::move(config), datasets.training->preprocess()));
  if (!options.resume) BITLAB_RETURN_IF_ERROR(begin_folder(run, folder));
  if (!run.config.quant.rules.empty()) fmt::print("{}", run.model->report().to_text());
  fmt::print("{}: {} training, {} validation, {} test samples of {}\n", options.heading, datasets.training->size(),
             datasets.validation->size(), datasets.test->size(), run.config.data.name);
  ProgressBar bar;
  train::ModuleLearner learner = learner_of(run);
  const train::Goal goal = learner.task().goal();
  train::TrainerOptions trainer_settings = trainer_options(run.config, Paths(folder), options.resume);
  show_on(bar, run.config.train.epochs, goal, trainer_settings);
  std::shared_ptr<train::TrainingProfiler> profiler;
  if (options.profile_steps > 0) {
    profiler = std::make_shared<train::TrainingProfiler>(train::TrainingProfileOptions{.steps = options.profile_steps});
    trainer_settings.hooks.push_back(profiler);
  }
  TrainedRun trained{run, {}, {}};
  BITLAB_TRY(trained.training,
             train::BitTrainer(learner, run.config.train, trainer_settings).fit(datasets.training, datasets.validation));
  if (profiler) BITLAB_RETURN_IF_ERROR(report_profile(*profiler, run.config.model.name(), Paths(folder)));
  BITLAB_TRY(trained.test, train::evaluate(learner, datasets.test));
  fmt::print("  test {} (epoch {})\n", goal_text(goal, trained.test.metrics), trained.training.best_epoch);
  BITLAB_RETURN_IF_ERROR(write_file_atomic(Paths(folder).report, std::string_view(json_text(report_of(trained), 2) + "\n")));
  return trained;
}

Status save_run(const Run& run, const fs::path& folder) {
  BITLAB_RETURN_IF_ERROR(begin_folder(run, folder));
  return train::save_checkpoint(learner_of(run).state(), Paths(folder).best);
}

Result<RunConfig> load_run_config(const fs::path& folder) { return config::load<RunConfig>(Paths(folder).config); }

Result<Run> load_run(const fs::path& folder) {
  const Paths paths(folder);
  Run run;
  BITLAB_TRY(run.config, load_run_config(folder));
  BITLAB_TRY(const std::string preprocess, read_file(paths.preprocess));
  auto parsed = data::Preprocess::from_json(preprocess);
  if (!parsed.ok())
    return make_error(parsed.error().code, "{} (path={})", parsed.error().message, paths.preprocess.string());
  run.preprocess = *std::move(parsed);
  BITLAB_TRY(run.model, models::make_model(run.config.model, run.config.quant));
  BITLAB_TRY(const train::State state, train::load_checkpoint(paths.best));
  BITLAB_RETURN_IF_ERROR(learner_of(run).load(state));
  return run;
}

}  // namespace bitlab::cli
