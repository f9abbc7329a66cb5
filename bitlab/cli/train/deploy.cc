// bitlab deploy: a training run, or a file of one format, becomes a file of a format.
#include <memory>
#include <optional>

#include "bitlab/base/file.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/deployment.h"
#include "bitlab/cli/train/flags.h"
#include "bitlab/deploy/torch_formats.h"
#include "bitlab/format/formats.h"

namespace bitlab::cli {
namespace {

struct DeployOptions {
  std::string source;  // a run's folder, or a file
  std::string output;
  format::WriteOptions written;
  int64_t samples = 0;
  std::string rules_file;
  MixedPrecisionConfig quant;
  ConfigFlags flags;
  DataConfig data;  // of a file's network
  ConfigFlags data_flags;
  std::vector<std::string> inputs;  // of one that does not tell them
};

// The first flag that says how a network becomes ternary without training; empty: none.
std::string given_quantization(const DeployOptions& options) {
  return options.rules_file.empty() ? options.flags.given() : "--rules";
}

Status read_rules(DeployOptions& options) {
  if (!options.rules_file.empty()) {
    BITLAB_TRY(options.quant, config::load<MixedPrecisionConfig>(options.rules_file));
  }
  return options.flags.apply();
}

void print_fit(const deploy::PostTrainingReport& report, const train::Goal& goal, int64_t samples) {
  std::vector<std::vector<std::string>> table{{"layer", "error", "fitted", "network's error"}};
  for (const deploy::LayerFit& layer : report.layers)
    table.push_back({layer.name, fmt::format("{:.4g}", layer.error_before), fmt::format("{:.4g}", layer.error_after),
                     layer.frozen ? fmt::format("{:.4g}{}", layer.output_error_after, layer.undone ? ", undone" : "") : ""});
  fmt::print("{}{} on the test samples: {:.5g} in float, {:.5g} quantized, {:.5g} fitted to {} samples\n",
             format_table(table), goal.metric, *report.evaluated_float, *report.evaluated_before, *report.evaluated_after,
             samples);
}

// The run's network made ternary without training, where that is asked for, with what it cost.
Result<Run> network_of(DeployOptions& options) {
  BITLAB_TRY(Run loaded, load_run(options.source));
  if (options.samples == 0) {
    const std::string given = given_quantization(options);
    if (given.empty()) return loaded;
    return make_error(ErrorCode::kInvalidArgument, "[deploy] {} with --samples, got none", given);
  }
  BITLAB_RETURN_IF_ERROR(read_rules(options));
  BITLAB_TRY(Fitted fitted, fit_run(loaded, options.quant, options.samples));
  print_fit(fitted.report, fitted.goal, options.samples);
  return std::move(fitted.run);
}

std::vector<std::string> size_row(const std::string& name, int64_t bytes, int64_t weights) {
  const auto count = static_cast<double>(weights), size = static_cast<double>(bytes);
  return {name, std::to_string(bytes), format_bytes(bytes), fmt::format("{:.2f}", 8 * size / count),
          fmt::format("{:.1f}x", sizeof(float) * count / size)};
}

// What a network takes before and after: names with bytes, below those of its weights as float32.
void print_sizes(const std::vector<std::pair<std::string, int64_t>>& sizes, int64_t weights) {
  const int64_t before = weights * static_cast<int64_t>(sizeof(float));
  std::vector<std::vector<std::string>> table{{"", "bytes", "", "bits a weight", "smaller"},
                                              size_row("float32 weights", before, weights)};
  for (const auto& [name, bytes] : sizes) table.push_back(size_row(name, bytes, weights));
  fmt::print("{}", format_table(table));
}

Status make_folder_of(const std::filesystem::path& output) {
  return ensure_writable_folder(output.has_parent_path() ? output.parent_path() : ".");
}

void print_deployment(const DeployOptions& options, const deploy::Deployment& d, bool is_bit) {
  std::vector<std::pair<std::string, int64_t>> sizes{{options.output, d.file_bytes}};
  if (is_bit) sizes.emplace_back("weights in the file", d.weight_file_bytes);
  sizes.emplace_back(is_bit ? "weights in memory" : "weights in memory of the runtime", d.weight_bytes);
  print_sizes(sizes, d.float32_weight_bytes / static_cast<int64_t>(sizeof(float)));
  for (const std::string& name : d.unread) fmt::print("Left out, since evaluation does not read it: {}\n", name);
  if (d.parity.exact) {
    fmt::print("LibTorch and the runtime give the same bits.\n");
  } else {
    fmt::print("LibTorch and the runtime differ by at most {:.2g} (largest output {:.2g}).\n", d.parity.max_difference,
               d.parity.max_magnitude);
  }
}

// What a user does next with a .bit file and its data.
void print_next(const DeployOptions& options, const DataConfig& data) {
  std::string flags = data.root.empty() ? "" : " --data-root " + data.root;
  for (const auto& [name, value] : data.options) flags += fmt::format(" --data-option '{}={}'", name, value);
  fmt::print("Next: bitlab-run run {} --data {}{}\n", options.output, data.name, flags);
}

// A file whose network LibTorch computes, to be captured or fitted.
Status deploy_network_of(DeployOptions& options) {
  BITLAB_TRY(const std::string_view format, format::format_of(options.output, options.written.format));
  BITLAB_TRY(FileNetwork network, load_network(options.source, options.inputs));
  BITLAB_RETURN_IF_ERROR(make_folder_of(options.output));
  std::optional<FittedNetwork> fitted;
  if (options.samples != 0) {
    BITLAB_RETURN_IF_ERROR(read_rules(options));
    BITLAB_RETURN_IF_ERROR(options.data_flags.apply());
    BITLAB_TRY(fitted, fit_network(network, options.quant, options.data, options.samples));
    print_fit(fitted->report, fitted->goal, options.samples);
  }
  BITLAB_TRY(const deploy::Deployment made, fitted
                                                ? deploy_network(network, *fitted->model, options.output, options.written)
                                                : deploy_network(network, *network.module, options.output, options.written));
  print_deployment(options, made, format == "bit");
  if (fitted && format == "bit") print_next(options, options.data);
  return {};
}

Status deploy_file(DeployOptions& options, std::string_view format) {
  if (options.samples != 0 && options.data_flags.given().empty())
    return make_error(ErrorCode::kInvalidArgument, "[deploy] --samples of a file's network with --data, got none");
  for (const std::string& given : {given_quantization(options), options.data_flags.given()})
    if (options.samples == 0 && !given.empty())
      return make_error(ErrorCode::kInvalidArgument, "[deploy] {} with --samples, got none", given);
  if (options.samples != 0 || !options.inputs.empty() || format == "torchscript") return deploy_network_of(options);
  BITLAB_RETURN_IF_ERROR(make_folder_of(options.output));
  BITLAB_TRY(const format::Conversion made, format::convert(options.source, options.output, options.written));
  print_sizes({{options.source, made.source_bytes}, {options.output, made.saved.bytes}}, made.weights);
  return {};
}

// What the run's texts became numbers with, or else what lies in its folder; empty where there is none.
std::string tokenizer_of(const std::string& folder, const DataConfig& data) {
  std::error_code ignored;
  if (const auto own = data.options.find("tokenizer"); own != data.options.end() && own->second != "bytes")
    return own->second;
  return std::filesystem::exists(std::filesystem::path(folder) / "tokenizer.json", ignored) ? folder : "";
}

Status deploy_trained(DeployOptions& options) {
  if (const std::string given = options.inputs.empty() ? options.data_flags.given() : "--input"; !given.empty())
    return make_error(ErrorCode::kInvalidArgument, "[deploy] {} with a file, got the run {}, which says it", given,
                      options.source);
  BITLAB_TRY(const std::string_view format, format::format_of(options.output, options.written.format));
  BITLAB_TRY(const Run loaded, network_of(options));
  if (options.written.tokenizer.empty()) options.written.tokenizer = tokenizer_of(options.source, loaded.config.data);
  const std::filesystem::path output(options.output);
  BITLAB_RETURN_IF_ERROR(make_folder_of(output));
  BITLAB_TRY(const deploy::Deployment d, deploy_run(loaded, output, options.written));
  const bool is_bit = format == "bit";
  print_deployment(options, d, is_bit);
  if (is_bit) print_next(options, loaded.config.data);
  return {};
}

Status run(DeployOptions& options) {
  const auto format = format::format_of(options.source);
  if (format.ok()) return deploy_file(options, *format);
  std::error_code ignored;
  if (std::filesystem::is_regular_file(options.source, ignored)) return format.error();  // which lists what there is
  return deploy_trained(options);
}

// Of --format and --variant, and an example of each format, from the lists of formats.
std::string format_help() {
  std::string text = "The file's format, where its ending does not say it:";
  for (const format::FormatInfo& info : format::format_list())
    text += fmt::format(" {} ({}): {};", info.name, info.extension, info.summary);
  text.back() = '.';
  return text;
}

std::string variant_help() {
  std::string text = "How the format keeps the network, the first unasked:";
  for (const format::FormatInfo& info : format::format_list())
    if (!info.variants.empty()) text += fmt::format(" of {}: {};", info.name, info.variants);
  text.back() = '.';
  return text;
}

std::string format_examples() {
  std::string text;
  for (const format::FormatInfo& info : format::format_list()) {
    if (info.name == "bit") continue;
    text += fmt::format("\n  bitlab deploy network.bit -o network{}", info.extension);
    if (const size_t blank = info.variants.rfind(' '); blank != std::string_view::npos)
      text += fmt::format(" --variant {}", info.variants.substr(blank + 1));
  }
  return text;
}

}  // namespace

void add_deploy(CLI::App& app, Action& action) {
  deploy::register_formats();
  auto options = std::make_shared<DeployOptions>();
  CLI::App* command =
      app.add_subcommand("deploy", "Write a trained model as a .bit file for the torch-free runtime, or in another format");
  command
      ->add_option("source", options->source,
                   "Folder that `bitlab train` made, or a file or folder of a format, by its ending")
      ->required();
  command->add_option("-o,--output", options->output, "The file, or folder, to write")->required();
  command->add_option("--format", options->written.format, format_help());
  command->add_option("--variant", options->written.variant, variant_help());
  command->add_option("--tokenizer", options->written.tokenizer,
                      "For gguf and hf: a tokenizer.json, or a file or folder that has one, to go with the network; none: "
                      "none. Unasked that of the source, "
                      "in it or beside it, or of the run's data");
  command
      ->add_option("--samples", options->samples,
                   "Make a network that was trained in float ternary, without training, fitted to so many training samples; "
                   "how, `deploy` of the run's config says. Samples of a file's network come from --data")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--rules", options->rules_file,
                      "A .yaml or .json file with a quantization and rules, for --samples; flags win over it");
  options->flags.add(*command, options->quant.quant, {{"method", "quant"}});
  options->data_flags.add(*command, options->data, {{"name", "data"}, {"root", "data-root"}, {"options", "data-options"}});
  command->add_option(
      "--input", options->inputs,
      "What a TorchScript file takes, once an argument of its forward(): image=float32[batch, 3, 224, 224], or "
      "tokens=int64[batch, tokens:512], whose tokens differ from run to run and are at most 512");
  command->footer(
      "Examples:\n  bitlab deploy runs/lenet5 -o lenet5.bit\n"
      "  bitlab deploy runs/lenet5-float --samples 256 --quant twn --granularity channel -o lenet5.bit\n"
      "  bitlab deploy resnet.onnx --samples 256 --data folder --data-root pictures --granularity channel -o resnet.bit\n"
      "  bitlab deploy resnet.pt --input 'x=float32[batch, 3, 224, 224]' -o resnet.bit" +
      format_examples());
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
