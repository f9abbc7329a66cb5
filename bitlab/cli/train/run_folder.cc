#include "bitlab/cli/train/run_folder.h"

#include <ctime>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/chrono.h>
#include <torch/utils.h>
#include <torch/version.h>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/heap.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/base/internal/nearest.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/version.h"
#include "bitlab/cli/console.h"
#include "bitlab/config/io.h"
#include "bitlab/config/path_pattern.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/profile/profiler.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/device.h"
#include "bitlab/train/profiler.h"
#include "bitlab/train/state_dict.h"

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;

struct Paths {
  fs::path config, preprocess, best, last, report, environment, profile, page, trace;
  explicit Paths(const fs::path& folder)
      : config(folder / "config.yaml"),
        preprocess(folder / "preprocess.json"),
        best(folder / "best.ckpt"),
        last(folder / "last.ckpt"),
        report(folder / "report.json"),
        environment(folder / "environment.json"),
        profile(folder / "profile.json"),
        page(folder / "profile.html"),
        trace(folder / "trace.json") {}
};

Json json_of(const std::vector<train::Metric>& metrics) {
  Json json = Json::object();
  for (const train::Metric& metric : metrics) json[metric.name] = metric.value;
  return json;
}

Json json_of(const Confusion& confusion) { return {{"classes", confusion.classes}, {"counts", confusion.counts}}; }

Json json_of(train::PhaseSeconds phases) {
  Json json = Json::object();
  phases.each([&](const char* phase, double seconds) { json[phase] = seconds; });
  return json;
}

Json json_of(const std::vector<train::WeightStatistics>& weights) {
  Json json = Json::object();
  for (train::WeightStatistics weight : weights)
    weight.each([&](const char* share, double value) { json[weight.name][share] = value; });
  return json;
}

Json report_of(const TrainedRun& trained) {
  Json epochs = Json::array();
  for (const train::EpochReport& epoch : trained.training.epochs)
    epochs.push_back({{"epoch", epoch.epoch},
                      {"loss", epoch.loss},
                      {"validation", json_of(epoch.metrics)},
                      {"seconds", epoch.seconds},
                      {"seconds_by_phase", json_of(epoch.phases)}});
  Json evaluations = Json::array();
  for (const train::EvaluationReport& evaluation : trained.training.evaluations)
    evaluations.push_back({{"epoch", evaluation.epoch},
                           {"step", evaluation.step},
                           {"validation", json_of(evaluation.metrics)},
                           {"weights", json_of(evaluation.weights)}});
  Json json{{"version", version()},
            {"model", trained.run.config.model.name()},
            {"test", json_of(trained.test.metrics)},
            {"samples_test", trained.test.samples},
            {"validation", json_of(trained.training.best)},
            {"best_epoch", trained.training.best_epoch},
            {"best_step", trained.training.best_step},
            {"stopped_early", trained.training.stopped_early},
            {"best_by", trained.training.best_by},
            {"seconds", trained.training.seconds},
            {"epochs", std::move(epochs)},
            {"evaluations", std::move(evaluations)}};
  if (!trained.confusion.counts.empty()) json["confusion"] = json_of(trained.confusion);
  return json;
}

// The goal's metric: "accuracy 98.20 %", "perplexity 4.1200".
std::string goal_text(const train::Goal& goal, const std::vector<train::Metric>& metrics) {
  const double value = train::Evaluation{0, metrics}.at(goal.metric);
  return goal.metric.ends_with("accuracy") ? fmt::format("{} {:6.2f} %", goal.metric, 100 * value)
                                           : fmt::format("{} {:.4f}", goal.metric, value);
}

// What the trainer tells a person.
class Progress final : public train::Sink {
 public:
  explicit Progress(train::Goal goal) : goal_(std::move(goal)) {}
  Status begin(const train::EventPosition&) override { return {}; }
  Status write(const train::Event& event) override {
    const auto number = [&event](std::string_view name) {
      const double* value = event.find(name);
      return value == nullptr ? 0.0 : *value;
    };
    if (event.kind == train::Event::Kind::kStep) {
      const auto left = std::chrono::seconds(static_cast<int64_t>(number("eta_seconds")));
      bar_.show(event.step, event.steps,
                fmt::format("epoch {}/{}  loss {:.4f}  lr {:.2e}  {:.0f} items/s  {:%T} left", event.epoch, event.epochs,
                            number("mean_loss"), number("learning_rate"), number("items_per_second"), left));
      return {};
    }
    bar_.clear();
    if (event.kind == train::Event::Kind::kEvaluation)
      validation_ = "  validation " + goal_text(goal_, {{goal_.metric, number("validation." + goal_.metric)}});
    if (event.kind != train::Event::Kind::kEpoch) return {};
    fmt::print("  epoch {}/{}  loss {:.4f}{}  {:.1f} s\n", event.epoch, event.epochs, number("loss"), validation_,
               number("seconds"));
    std::fflush(stdout);
    return {};
  }

 private:
  train::Goal goal_;
  std::string validation_{};  // of the last evaluation
  ProgressBar bar_;
};

// Versions, machine and time, for whoever wonders later.
Status save_environment(const RunConfig& config, int64_t processes, const fs::path& path) {
  const Machine& machine = this_machine();
  const Json json{{"version", version()},
                  {"build", build_facts()},
                  {"libtorch", TORCH_VERSION},
                  {"cpu", machine.cpu},
                  {"cores", machine.cores},
                  {"features", machine.features.to_string()},
                  {"device", config.train.device.empty() ? "cpu" : config.train.device},
                  {"processes", processes},
                  {"threads", config.train.threads == 0 ? at::get_num_threads() : config.train.threads},
                  {"began", fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)))}};
  return write_file_atomic(path, std::string_view(json_text(json, 2) + "\n"));
}

// The names of the classes of what the data are for; none where these are no classes.
std::vector<std::string> classes_of(const data::Preprocess& preprocess) {
  if (const data::ImageSpec* image = preprocess.image(); image != nullptr) return image->labels;
  if (const data::TextSpec* text = preprocess.text(); text != nullptr) return text->labels;
  return {};
}

// Evaluates, and counts which class was taken for which, where the samples have classes.
Result<train::Evaluation> evaluate_test(train::Learner& learner, const Run& run, const data::DatasetPtr& test,
                                        Confusion& confusion) {
  constexpr size_t kMostClasses = 200;
  const std::vector<std::string> names = classes_of(run.preprocess);
  train::EvaluateOptions options{.channels_last = run.config.train.channels_last};
  if (!names.empty() && names.size() <= kMostClasses) {
    confusion = {names, std::vector<std::vector<int64_t>>(names.size(), std::vector<int64_t>(names.size()))};
    options.on_batch = [&confusion](const nn::NamedTensors& outputs, const nn::NamedTensors& batch) {
      const at::Tensor taken = outputs.at(nn::kOutput).argmax(1).cpu().contiguous(),
                       label = batch.at("label").cpu().contiguous();
      const auto classes = static_cast<int64_t>(confusion.classes.size());
      for (int64_t i = 0; i < label.numel(); ++i) {
        const int64_t row = label.const_data_ptr<int64_t>()[i], column = taken.const_data_ptr<int64_t>()[i];
        if (row >= 0 && row < classes && column < classes)
          ++confusion.counts[static_cast<size_t>(row)][static_cast<size_t>(column)];
      }
    };
  }
  return train::evaluate(learner, test, options);
}

// The network of a run becomes the teacher, on the device on which the network trains.
Status take_teacher(const std::string& folder, const std::optional<at::Device>& device, train::TrainerOptions& options) {
  BITLAB_TRY(const Run run, load_run(folder));
  run.model->eval();
  if (device) run.model->to(*device);
  options.teacher = [model = run.model](const nn::NamedTensors& batch) { return model->forward(batch); };
  options.teacher_parameters = train::parameters_of(*run.model);
  return {};
}

train::TrainerOptions trainer_options(const RunConfig& config, const Paths& paths, const TrainRunOptions& run) {
  // A run that was interrupted before its first checkpoint begins again.
  const bool resume = run.resume && fs::exists(paths.last);
  train::TrainerOptions options{
      .best = paths.best, .checkpoint = paths.last, .resume = resume, .peers = run.peers, .stop = run.stop};
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

// Of processes that train together the first one writes and prints.
bool is_first_of(const std::shared_ptr<train::Peers>& peers) { return train::rank_of(peers) == 0; }

// The folder of a run that begins, and what a person is told of it.
Status begin_run(const Run& run, const Datasets& datasets, const fs::path& folder, const TrainRunOptions& options) {
  const int64_t processes = train::size_of(options.peers);
  if (!options.resume) {
    BITLAB_RETURN_IF_ERROR(begin_folder(run, folder));
    BITLAB_RETURN_IF_ERROR(save_environment(run.config, processes, Paths(folder).environment));
  }
  if (!run.config.log.folder.empty()) BITLAB_RETURN_IF_ERROR(ensure_writable_folder(run.config.log.folder));
  if (!run.config.quant.rules.empty()) fmt::print("{}", run.model->report().to_text());
  const std::string& device = run.config.train.device;
  fmt::print("{}: {} training, {} validation, {} test samples of {}{}{}\n", options.heading, datasets.training->size(),
             datasets.validation->size(), datasets.test->size(), run.config.data.name,
             device.empty() ? "" : fmt::format(", on {}", device),
             processes > 1 ? fmt::format(", {} processes", processes) : "");
  return {};
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

Status check_config(const RunConfig& config) {
  const auto list = data::dataset_names();
  const std::vector<std::string> names(list.begin(), list.end());
  if (std::find(names.begin(), names.end(), config.data.name) == names.end())
    return make_error(ErrorCode::kUnknownName, "[config] a data set, got '{}'; did you mean '{}'? (key=data.name)",
                      config.data.name, *nearest(config.data.name, names));
  BITLAB_RETURN_IF_ERROR(train::check(config.train));
  BITLAB_RETURN_IF_ERROR(models::make_model(config.model, config.quant));
  return {};
}

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

std::shared_ptr<const train::Task> task_of(const data::Preprocess& preprocess) {
  if (const data::TextSpec* text = preprocess.text(); text != nullptr && text->labels.empty())
    return std::make_shared<train::NextToken>();
  return std::make_shared<train::Classification>();
}

train::ModuleLearner learner_of(const Run& run) { return {*run.model, task_of(run.preprocess)}; }

Status take_weights(const Run& from, models::Model& model) {
  const at::NoGradGuard no_grad;
  const train::State trained = learner_of(from).state(), own = train::state_of(model);
  for (const auto& [name, tensor] : own)
    if (const auto found = trained.find(name); found != trained.end() && found->second.sizes() != tensor.sizes())
      return make_error(ErrorCode::kShapeMismatch, "[train] parameters of one architecture, got {} and {} (name={})",
                        c10::str(tensor.sizes()), c10::str(found->second.sizes()), name);
  for (const auto& parameter : model.named_parameters())
    if (parameter.key().ends_with("weight") && !trained.contains(parameter.key()))
      return make_error(ErrorCode::kUnknownName, "[train] parameters of one architecture, got none for '{}'",
                        parameter.key());
  for (const auto& [name, tensor] : own)
    if (const auto found = trained.find(name); found != trained.end()) at::Tensor(tensor).copy_(found->second);
  for (const nn::FoundProduct& found : nn::products_of(model))
    found.layer->view().quantizer.initialize_scales(found.layer->view().weight);
  return {};
}

Result<std::shared_ptr<models::Model>> requantized(const Run& run, const MixedPrecisionConfig& quant) {
  BITLAB_TRY(auto model, models::make_model(run.config.model, quant));
  BITLAB_RETURN_IF_ERROR(take_weights(run, *model));
  return model;
}

Result<TrainedRun> train_run(RunConfig config, const Datasets& datasets, const fs::path& folder,
                             const TrainRunOptions& options) {
  keep_freed_memory();
  BITLAB_TRY(const auto device, train::find_device(config.train.device));
  BITLAB_TRY(const Run run, make_run(std::move(config), datasets.training->preprocess()));
  if (const std::string& init_from = run.config.train.init_from; !init_from.empty() && !options.resume) {
    BITLAB_TRY(const Run from, load_run(init_from));
    BITLAB_RETURN_IF_ERROR(take_weights(from, *run.model));
  }
  // What makes a run impossible is said before it has a folder.
  BITLAB_RETURN_IF_ERROR(train::check(run.config.train));
  train::ModuleLearner learner = learner_of(run);
  const train::Goal goal = learner.task().goal();
  train::TrainerOptions trainer_settings = trainer_options(run.config, Paths(folder), options);
  if (const std::string& teacher = run.config.train.teacher; !teacher.empty())
    BITLAB_RETURN_IF_ERROR(take_teacher(teacher, device, trainer_settings));
  if (is_first_of(options.peers)) {
    BITLAB_RETURN_IF_ERROR(begin_run(run, datasets, folder, options));
    trainer_settings.sinks = train::make_sinks(run.config.log, folder);
    trainer_settings.sinks.push_back(std::make_shared<Progress>(goal));
  }
  std::shared_ptr<train::TrainingProfiler> profiler;
  if (options.profile_steps > 0) {
    profiler = std::make_shared<train::TrainingProfiler>(train::TrainingProfileOptions{.steps = options.profile_steps});
    trainer_settings.hooks.push_back(profiler);
  }
  TrainedRun trained{run, {}, {}, {}};
  BITLAB_TRY(trained.training,
             train::BitTrainer(learner, run.config.train, trainer_settings).fit(datasets.training, datasets.validation));
  if (!is_first_of(options.peers)) return trained;
  if (profiler) BITLAB_RETURN_IF_ERROR(report_profile(*profiler, run.config.model.name(), Paths(folder)));
  BITLAB_TRY(trained.test, evaluate_test(learner, run, datasets.test, trained.confusion));
  run.model->to(at::kCPU);  // whatever comes behind training is the host's
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
