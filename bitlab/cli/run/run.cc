// bitlab run: classify a data set or pictures with a deployed model.
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
  std::vector<std::string> inputs;
  std::string logits;
  int threads = 0;
  int64_t batch = 64;
  int64_t limit = 0;
  bool json = false;
};

struct Images {
  std::vector<uint8_t> pixels;
  int64_t count = 0;
  std::vector<int64_t> labels;  // empty for pictures
};

Result<Images> load_set(const RunOptions& options, const data::ImageSpec& spec) {
  BITLAB_TRY(const data::DatasetPtr set,
             data::load_dataset(options.data, data::Split::kTest, {.root = options.data_root, .limit = options.limit}));
  const data::Preprocess preprocess = set->preprocess();
  const data::ImageSpec* own = preprocess.image();
  if (own == nullptr)
    return make_error(ErrorCode::kInvalidArgument, "[run] a data set of images, got one of {} (data={})", preprocess.kind(),
                      options.data);
  if (own->channels != spec.channels || own->height != spec.height || own->width != spec.width)
    return make_error(ErrorCode::kShapeMismatch, "[run] images of {}x{}x{}, got {}x{}x{} (data={})", spec.channels,
                      spec.height, spec.width, own->channels, own->height, own->width, options.data);
  Images images;
  images.count = set->size();
  images.pixels.reserve(static_cast<size_t>(images.count * spec.values()));
  for (int64_t i = 0; i < images.count; ++i) {
    BITLAB_TRY(const data::Sample sample, set->get(i));
    const auto& pixels = sample.find("image")->bytes;
    images.pixels.insert(images.pixels.end(), pixels.begin(), pixels.end());
    images.labels.push_back(sample.find("label")->values<int64_t>()[0]);
  }
  return images;
}

Result<Images> load_images(const RunOptions& options, const data::ImageSpec& spec) {
  if (!options.data.empty()) return load_set(options, spec);
  Images images;
  for (const std::string& path : options.inputs) {
    BITLAB_TRY(const data::Image image, data::read_image(path, spec.channels));
    if (image.height != spec.height || image.width != spec.width)
      return make_error(ErrorCode::kShapeMismatch, "[run] an image of {}x{} (height x width), got {}x{} (path={})",
                        spec.height, spec.width, image.height, image.width, path);
    images.pixels.insert(images.pixels.end(), image.pixels.begin(), image.pixels.end());
    ++images.count;
  }
  return images;
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

void print_report(const Json& report) {
  if (report.contains("accuracy")) {
    fmt::print("images    {}\naccuracy  {:.2f} %\nruntime   {:.3f} s, {:.0f} images/s ({} threads, batch {})\n",
               report["images"].get<int64_t>(), 100 * report["accuracy"].get<double>(), report["seconds"].get<double>(),
               report["images_per_s"].get<double>(), report["threads"].get<int>(), report["batch"].get<int64_t>());
    return;
  }
  for (const Json& item : report["predictions"])
    fmt::print("{}: {} ({:.1f} %)\n", item["input"].get<std::string>(), item["label"].get<std::string>(),
               100 * item["probability"].get<double>());
}

Status run(const RunOptions& options) {
  BITLAB_TRY(auto model, runtime::Model::load(options.model));
  BITLAB_TRY(const data::ImageSpec spec, image_spec_of(*model));
  BITLAB_TRY(const Images images, load_images(options, spec));
  BITLAB_TRY(auto session, runtime::Session::create(model, {.threads = options.threads, .trace = {}}));
  ProgressBar bar;
  BITLAB_TRY(const Classification result, classify(*session, spec, images.pixels, images.count, options.batch,
                                                   [&](int64_t done) { bar.show(done, images.count, "images"); }));
  bar.clear();
  if (!options.logits.empty()) BITLAB_RETURN_IF_ERROR(write_logits(result, options.logits));
  Json report{
      {"model", options.model},        {"images", result.count},
      {"threads", session->threads()}, {"batch", options.batch},
      {"seconds", result.seconds},     {"images_per_s", static_cast<double>(result.count) / std::max(result.seconds, 1e-9)}};
  if (images.labels.empty()) {
    report["predictions"] = predictions(options, spec, result);
  } else {
    report["accuracy"] = accuracy(result, images.labels);
  }
  if (options.json) {
    fmt::print("{}\n", json_text(report, 2));
  } else {
    print_report(report);
  }
  return {};
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Classify a data set or pictures with a deployed model");
  add_model(*command, options->model);
  auto* data = command->add_option("--data", options->data, "Data set whose test images are classified: mnist, cifar10, folder, ...");
  command->add_option("--data-root", options->data_root, "Folder of the data set")->needs(data);
  auto* input = command->add_option("--input", options->inputs, "PNG or JPEG pictures of the size that the model wants");
  data->excludes(input);
  command->add_option("--logits", options->logits,
                      "Write the logits to this file: raw little-endian float32, image by image");
  add_threads(*command, options->threads);
  add_batch(*command, options->batch, "Images a run");
  command->add_option("--limit", options->limit, "Use at most this many images; 0: all")->check(CLI::Range(0, 1 << 30));
  add_json(*command, options->json);
  command->footer(
      "Examples:\n"
      "  bitlab-run run lenet5.bit --data mnist\n"
      "  bitlab-run run lenet5.bit --input digit.png --json\n"
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
