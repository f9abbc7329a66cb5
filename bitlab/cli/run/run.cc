// bitlab run: a deployed model over a data set or pictures.
#include <cmath>
#include <cstdio>
#include <memory>

#include "bitlab/base/internal/json.h"
#include "bitlab/cli/console.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/classify.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/image.h"
#include "bitlab/kernels/reduction/reduction.h"

namespace bitlab::cli {
namespace {

struct RunOptions {
  std::string model;
  std::string data;
  std::string data_root;
  std::vector<std::string> data_options;  // "tokens=64"
  std::vector<std::string> inputs;
  std::string logits;
  int threads = 0;
  std::string device;
  int64_t batch = 64;
  int64_t limit = 0;
  bool json = false;
};

// Pictures from files, without labels.
class Pictures final : public data::Dataset {
 public:
  explicit Pictures(data::ImageSpec spec) : spec_(std::move(spec)) {}
  void add(std::vector<uint8_t> pixels) { pixels_.push_back(std::move(pixels)); }
  int64_t size() const override { return static_cast<int64_t>(pixels_.size()); }
  Result<data::Sample> get(int64_t index) const override {
    return data::Sample{{data::Array::of<uint8_t>("image", {spec_.channels, spec_.height, spec_.width},
                                                  pixels_.at(static_cast<size_t>(index)))}};
  }

 private:
  data::ImageSpec spec_;
  std::vector<std::vector<uint8_t>> pixels_;
};

// Whether samples of one form are those of the other, however they are normalized and whatever the classes are called.
Status check_form(const data::Preprocess& wanted, const data::Preprocess& found, const std::string& data) {
  const auto sizes_of = [](const data::Preprocess& p) {
    auto sizes = p.sizes();
    if (p.image() != nullptr) sizes.erase("classes");
    sizes.erase("tokens");  // a model of texts takes any number, and says which is too large
    std::string text = std::string(p.kind());
    for (const auto& [name, size] : sizes) text += fmt::format(", {} {}", name, size);
    return text;
  };
  if (sizes_of(wanted) == sizes_of(found)) return {};
  return make_error(ErrorCode::kShapeMismatch, "[run] data of the model's form ({}), got {} (data={})", sizes_of(wanted),
                    sizes_of(found), data);
}

Result<data::DatasetPtr> load_set(const RunOptions& options, const data::Preprocess& preprocess) {
  data::DataOptions own{.root = options.data_root, .limit = options.limit};
  for (const std::string& option : options.data_options) {
    const size_t equals = option.find('=');
    if (equals == std::string::npos)
      return make_error(ErrorCode::kInvalidArgument, "[run] --data-option name=value, got '{}'", option);
    own.own[option.substr(0, equals)] = option.substr(equals + 1);
  }
  BITLAB_TRY(data::DatasetPtr set, data::load_dataset(options.data, data::Split::kTest, own));
  BITLAB_RETURN_IF_ERROR(check_form(preprocess, set->preprocess(), options.data));
  return set;
}

Result<data::DatasetPtr> load_data(const RunOptions& options, const data::Preprocess& preprocess) {
  if (!options.data.empty()) return load_set(options, preprocess);
  const data::ImageSpec* spec = preprocess.image();
  if (spec == nullptr) return make_error(ErrorCode::kInvalidArgument, "[run] --data with a model of texts, got --input");
  const auto pictures = std::make_shared<Pictures>(*spec);
  for (const std::string& path : options.inputs) {
    BITLAB_TRY(data::Image image, data::read_image(path, spec->channels));
    if (image.height != spec->height || image.width != spec->width)
      return make_error(ErrorCode::kShapeMismatch, "[run] an image of {}x{} (height x width), got {}x{} (path={})",
                        spec->height, spec->width, image.height, image.width, path);
    pictures->add(std::move(image.pixels));
  }
  return data::DatasetPtr(pictures);
}

std::string label_of(const data::ImageSpec& spec, int64_t index) {
  const auto i = static_cast<size_t>(index);
  return i < spec.labels.size() ? spec.labels[i] : std::to_string(index);
}

Json predictions(const RunOptions& options, const data::ImageSpec& spec, const Classification& result) {
  std::vector<float> probabilities(result.logits.size());
  const kernels::ReductionRow& softmax = **kernels::select(kernels::reduction_kernels(), this_machine(), {});
  reduction(
      softmax,
      {.op = kernels::Reduction::kSoftmax, .x = result.logits.data(), .columns = result.classes, .y = probabilities.data()},
      result.count, *make_thread_pool(1));
  Json list = Json::array();
  for (int64_t i = 0; i < result.count; ++i) {
    const int64_t best = result.best(i);
    list.push_back({{"input", options.inputs[static_cast<size_t>(i)]},
                    {"label", label_of(spec, best)},
                    {"probability", probabilities[static_cast<size_t>(i * result.classes + best)]}});
  }
  return list;
}

void print_report(const Json& report, const std::string& what) {
  if (report.contains("predictions")) {
    for (const Json& item : report["predictions"])
      fmt::print("{}: {} ({:.1f} %)\n", item["input"].get<std::string>(), item["label"].get<std::string>(),
                 100 * item["probability"].get<double>());
    return;
  }
  const int64_t count = report[what].get<int64_t>();
  if (report.contains("accuracy")) {
    fmt::print("{:<11} {}\naccuracy    {:.2f} %\n", what, count, 100 * report["accuracy"].get<double>());
  } else {
    fmt::print("{:<11} {}\nloss        {:.4f}\nperplexity  {:.4f}\n", what, count, report["loss"].get<double>(),
               report["perplexity"].get<double>());
  }
  fmt::print("runtime     {:.3f} s, {:.0f} {}/s ({} threads, batch {})\n", report["seconds"].get<double>(),
             report[what + "_per_s"].get<double>(), what, report["threads"].get<int>(), report["batch"].get<int64_t>());
}

// The metrics and what was counted, into the report.
Result<std::string> measure(runtime::Session& session, const DatasetRun& data, const RunOptions& options, Json& report) {
  const auto add = [&](const std::string& what, int64_t count, double seconds) {
    report[what] = count;
    report["device"] = session.device();
    report["threads"] = session.threads();
    report["batch"] = options.batch;
    report["seconds"] = seconds;
    report[what + "_per_s"] = static_cast<double>(count) / std::max(seconds, 1e-9);
    return what;
  };
  const data::TextSpec* text = data.preprocess.text();
  if (text != nullptr && text->labels.empty()) {
    BITLAB_TRY(const Perplexity result, perplexity(session, data));
    report["loss"] = result.loss;
    report["perplexity"] = std::exp(result.loss);
    return add("tokens", result.tokens, result.seconds);
  }
  BITLAB_TRY(const Classification result, classify(session, data));
  if (!options.logits.empty()) BITLAB_RETURN_IF_ERROR(write_logits(result, options.logits));
  if (result.labels.empty()) {
    report["predictions"] = predictions(options, *data.preprocess.image(), result);
  } else {
    report["accuracy"] = result.accuracy();
  }
  return add(text != nullptr ? "texts" : "images", result.count, result.seconds);
}

Status run(const RunOptions& options) {
  BITLAB_TRY(auto model, runtime::Model::load(options.model));
  BITLAB_TRY(const data::Preprocess preprocess, preprocess_of(*model));
  BITLAB_TRY(const data::DatasetPtr set, load_data(options, preprocess));
  BITLAB_TRY(auto session,
             runtime::Session::create(model, {.threads = options.threads, .trace = {}, .device = options.device}));
  ProgressBar bar;
  Json report{{"model", options.model}};
  const DatasetRun data{*set, preprocess, options.batch, [&](int64_t done) { bar.show(done, set->size(), "samples"); }};
  BITLAB_TRY(const std::string what, measure(*session, data, options, report));
  bar.clear();
  if (options.json) {
    fmt::print("{}\n", json_text(report, 2));
  } else {
    print_report(report, what);
  }
  return {};
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "Classify a data set or pictures with a deployed model, or measure a language model");
  add_model(*command, options->model);
  auto* data = command->add_option("--data", options->data,
                                   "Data set whose test samples are run: mnist, cifar10, folder, text, labelled_text, ...");
  command->add_option("--data-root", options->data_root, "Folder or file of the data set")->needs(data);
  command
      ->add_option("--data-option", options->data_options,
                   "What the data set alone takes, as tokens=64; any number of times")
      ->needs(data);
  auto* input = command->add_option("--input", options->inputs, "PNG or JPEG pictures of the size that the model wants");
  data->excludes(input);
  command->add_option("--logits", options->logits,
                      "Write the logits of a classifier to this file: raw little-endian float32, sample by sample");
  add_threads(*command, options->threads);
  add_device(*command, options->device);
  add_batch(*command, options->batch, "Samples a run");
  command->add_option("--limit", options->limit, "Use at most this many samples; 0: all")->check(CLI::Range(0, 1 << 30));
  add_json(*command, options->json);
  command->footer(
      "Examples:\n"
      "  bitlab-run run lenet5.bit --data mnist\n"
      "  bitlab-run run lenet5.bit --input digit.png --json\n"
      "  bitlab-run run gpt.bit --data text --data-root shakespeare.txt --data-option tokens=128\n"
      "The environment variable BITLAB_KERNEL restricts kernels, as in BITLAB_KERNEL=ternary_gemm:reference.");
  command->callback([options, &action] {
    action = [options]() -> Status {
      if (options->data.empty() == options->inputs.empty())
        return make_error(ErrorCode::kInvalidArgument, "[run] --data or --input, got {}",
                          options->data.empty() ? "none" : "both");
      return run(*options);
    };
  });
}

}  // namespace bitlab::cli
