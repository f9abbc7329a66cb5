// bitlab demo: the whole way on real data. Trains LeNet-5 in float32 and ternary, deploys both, classifies the test images with the
// torch-free program, and compares accuracy, bits, size and speed.
#include <cstring>
#include <memory>

#include <ATen/ops/cat.h>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/text.h"
#include "bitlab/base/version.h"
#include "bitlab/cli/train/child.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/compare.h"
#include "bitlab/cli/train/deployment.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/data/internal/mosaic.h"

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;

struct DemoOptions {
  std::string output;
  RunConfig config;
  ConfigFlags flags;
};

// What bitlab-run said and wrote about the test images.
struct Deployed {
  double accuracy = 0;
  std::string logits;  // raw float32
};

Result<Deployed> run_torch_free(const DataConfig& data, const fs::path& model, const fs::path& logits) {
  std::vector<std::string> arguments{"run",      model,  "--data", data.name, "--limit", std::to_string(data.limit),
                                     "--logits", logits, "--json"};
  if (!data.root.empty()) arguments.insert(arguments.end(), {"--data-root", data.root});
  BITLAB_TRY(const std::string output, run_sibling("bitlab-run", arguments));
  Deployed deployed;
  BITLAB_TRY(const Json report, parse_json(output, "demo"));
  if (!report.contains("accuracy"))
    return make_error(ErrorCode::kInternal, "[demo] an accuracy reported by bitlab-run, got '{}'", output);
  deployed.accuracy = report["accuracy"].get<double>();
  BITLAB_TRY(deployed.logits, read_file(logits));
  return deployed;
}

bool same_bytes(const at::Tensor& logits, const std::string& bytes) {
  return logits.nbytes() == bytes.size() && std::memcmp(logits.const_data_ptr(), bytes.data(), bytes.size()) == 0;
}

// Of all samples; the demo's set is small.
Result<at::Tensor> logits_of(const Run& run, const data::DatasetPtr& set) {
  std::vector<at::Tensor> parts;
  train::EvaluateOptions options;
  options.on_batch = [&](const nn::NamedTensors& outputs, const nn::NamedTensors&) {
    parts.push_back(outputs.at(nn::kOutput));
  };
  train::ModuleLearner learner = learner_of(run);
  BITLAB_RETURN_IF_ERROR(train::evaluate(learner, set, options));
  return at::cat(parts).contiguous();
}

Status write_digits(const data::Dataset& set, const at::Tensor& logits, const fs::path& path) {
  constexpr int64_t kColumns = 10, kCount = 50;
  const data::Preprocess preprocess = set.preprocess();
  const data::ImageSpec& spec = *preprocess.image();
  const at::Tensor best = logits.argmax(1);
  std::vector<data::Tile> tiles;
  for (int64_t i = 0; i < std::min(kCount, set.size()); ++i) {
    BITLAB_TRY(const data::Sample sample, set.get(i));
    const int64_t predicted = best[i].item<int64_t>(), label = sample.find("label")->values<int64_t>()[0];
    tiles.push_back({{spec.channels, spec.height, spec.width, sample.find("image")->bytes},
                     spec.labels[static_cast<size_t>(predicted)],
                     predicted == label});
  }
  BITLAB_TRY(const data::Image sheet, data::mosaic(tiles, kColumns));
  return data::write_png(path, sheet);
}

struct Comparison {
  const TrainedRun &float32, &ternary;
  const deploy::Deployment &float32_file, &ternary_file;
  const Deployed& deployed;
  bool logits_equal;
  Speed one, many;  // batch 1 and kBatch
  int threads;
  static constexpr int64_t kBatch = 64;
};

double ratio(int64_t larger, int64_t smaller) { return static_cast<double>(larger) / static_cast<double>(smaller); }

Json report_of(const Comparison& c) {
  const int64_t float_bytes = c.ternary_file.float32_weight_bytes;
  return {{"version", version()},
          {"build", build_facts()},
          {"cpu", this_machine().cpu},
          {"threads", c.threads},
          {"model", c.ternary.run.config.model.name()},
          {"data", c.ternary.run.config.data.name},
          {"epochs", c.ternary.run.config.train.epochs},
          {"images", c.ternary.test.samples},
          {"accuracy_float", c.float32.test.at("accuracy")},
          {"accuracy_ternary", c.ternary.test.at("accuracy")},
          {"accuracy_deployed", c.deployed.accuracy},
          {"logits_equal", c.logits_equal},
          {"weights_bytes_float32", float_bytes},
          {"weights_bytes_file", c.ternary_file.weight_file_bytes},
          {"weights_bytes_memory", c.ternary_file.weight_bytes},
          {"model_bytes_file", c.ternary_file.file_bytes},
          {"weights_file_ratio", ratio(float_bytes, c.ternary_file.weight_file_bytes)},
          {"weights_memory_ratio", ratio(float_bytes, c.ternary_file.weight_bytes)},
          {"model_file_ratio", ratio(c.float32_file.file_bytes, c.ternary_file.file_bytes)},
          {"latency_ms_b1", 1e3 * c.one.runtime_seconds},
          {"latency_ms_b1_libtorch_float32", 1e3 * c.one.libtorch_seconds},
          {"images_per_s_b64", Comparison::kBatch / c.many.runtime_seconds},
          {"images_per_s_b64_libtorch_float32", Comparison::kBatch / c.many.libtorch_seconds},
          {"training_seconds_float", c.float32.training.seconds},
          {"training_seconds_ternary", c.ternary.training.seconds}};
}

void print_comparison(const Json& r) {
  const auto number = [&r](const char* key) { return r[key].get<double>(); };
  const auto percent = [&](const char* key) { return fmt::format("{:.2f} %", 100 * number(key)); };
  const auto bytes = [&r](const char* key) { return format_bytes(r[key].get<int64_t>()); };
  const auto times = [](double value) { return fmt::format("{:.1f}x", value); };
  fmt::print(
      "\n{}\n",
      format_table({{"", "LibTorch float32", "LibTorch ternary", "bitlab-run ternary", "gain"},
                    {fmt::format("accuracy, {} test images", r["images"].get<int64_t>()), percent("accuracy_float"),
                     percent("accuracy_ternary"), percent("accuracy_deployed"), ""},
                    {"weights on disk", bytes("weights_bytes_float32"), "", bytes("weights_bytes_file"),
                     times(number("weights_file_ratio"))},
                    {"weights in memory", bytes("weights_bytes_float32"), "", bytes("weights_bytes_memory"),
                     times(number("weights_memory_ratio"))},
                    {"latency, batch 1", fmt::format("{:.3f} ms", number("latency_ms_b1_libtorch_float32")), "",
                     fmt::format("{:.3f} ms", number("latency_ms_b1")),
                     times(number("latency_ms_b1_libtorch_float32") / number("latency_ms_b1"))},
                    {"throughput, batch 64", fmt::format("{:.0f} images/s", number("images_per_s_b64_libtorch_float32")), "",
                     fmt::format("{:.0f} images/s", number("images_per_s_b64")),
                     times(number("images_per_s_b64") / number("images_per_s_b64_libtorch_float32"))}}));
  fmt::print("Logits of LibTorch and bitlab-run: {} on {} images.\n",
             r["logits_equal"].get<bool>() ? "equal byte for byte" : "DIFFERENT", r["images"].get<int64_t>());
}

Result<TrainedRun> train_as(RunConfig config, const BitQuantConfig& quant, const Datasets& datasets, const fs::path& folder,
                            std::string_view heading) {
  config.quant = {.quant = quant};
  return train_run(std::move(config), datasets, folder, {std::string(heading)});
}

Status run(DemoOptions& options) {
  BITLAB_RETURN_IF_ERROR(options.flags.apply());
  const fs::path out(options.output);
  BITLAB_RETURN_IF_ERROR(ensure_writable_folder(out));
  BITLAB_TRY(const Datasets datasets, load_datasets(options.config.data));
  BITLAB_TRY(const TrainedRun float32,
             train_as(options.config, BitQuantConfig::none(), datasets, out / "float32", "LeNet-5, float32"));
  BITLAB_TRY(const TrainedRun ternary,
             train_as(options.config, {}, datasets, out / "ternary", "LeNet-5, ternary weights, int8 activations"));
  const fs::path file = out / "lenet5.bit";
  BITLAB_TRY(const auto float32_file, deploy_run(float32.run, out / "lenet5-float32.bit"));
  BITLAB_TRY(const auto ternary_file, deploy_run(ternary.run, file));
  fmt::print("Deployed {} ({}); classifying the test images with bitlab-run\n", file.string(),
             format_bytes(ternary_file.file_bytes));
  BITLAB_TRY(const Deployed deployed, run_torch_free(options.config.data, file, out / "logits.f32"));
  BITLAB_TRY(const at::Tensor logits, logits_of(ternary.run, datasets.test));
  const bool equal = same_bytes(logits, deployed.logits);
  BITLAB_TRY(auto model, runtime::Model::load(file));
  BITLAB_TRY(auto session,
             runtime::Session::create(model, {.threads = static_cast<int>(options.config.train.threads), .trace = {}}));
  BITLAB_TRY(const Speed one, compare_speed(*session, *float32.run.model, *float32.run.preprocess.image(), 1));
  BITLAB_TRY(const Speed many,
             compare_speed(*session, *float32.run.model, *float32.run.preprocess.image(), Comparison::kBatch));
  const Json report =
      report_of({float32, ternary, float32_file, ternary_file, deployed, equal, one, many, session->threads()});
  BITLAB_RETURN_IF_ERROR(write_file_atomic(out / "report.json", std::string_view(json_text(report, 2) + "\n")));
  BITLAB_RETURN_IF_ERROR(write_digits(*datasets.test, logits, out / "digits.png"));
  print_comparison(report);
  fmt::print("Wrote report.json, digits.png and lenet5.bit to {}\n", out.string());
  if (!equal) return make_error(ErrorCode::kInternal, "[demo] equal logits of LibTorch and bitlab-run, got different ones");
  return {};
}

}  // namespace

void add_demo(CLI::App& app, Action& action) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* command =
      app.add_subcommand("demo", "Train, deploy and run a small ternary network, and compare it with float32");
  options->output = "out/demo";
  command->add_option("-o,--output", options->output, "Folder for everything that the demo makes")->capture_default_str();
  options->flags.add(*command, options->config.data, {{"name", "data"}, {"root", "data-root"}, {"options", "data-options"}});
  options->flags.add(*command, options->config.train);
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
