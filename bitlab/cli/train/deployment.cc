#include "bitlab/cli/train/deployment.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <numeric>

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

namespace bitlab::cli {
namespace {

constexpr int64_t kExamples = 16, kTokens = 8;  // of examples

// Random samples of the form of the run's data.
at::Tensor example_of(const Run& run, int64_t samples) {
  torch::manual_seed(0);
  if (const data::TextSpec* text = run.preprocess.text(); text != nullptr)
    return at::randint(text->vocabulary, {samples, text->tokens}, at::kLong);
  const data::ImageSpec* image = run.preprocess.image();
  if (image == nullptr)
    throw Exception(
        make_error(ErrorCode::kUnsupported, "[deploy] a run on images or text, got one on '{}'", run.preprocess.kind()));
  return at::randn({samples, image->channels, image->height, image->width});
}

// What a network reads of a batch of data: what they begin with, by place.
nn::NamedTensors read_by(const std::optional<program::Signature>& signature, const nn::NamedTensors& batch) {
  nn::NamedTensors inputs;
  const size_t count = signature ? signature->inputs.size() : 1;
  if (batch.size() < count)
    throw Exception(
        make_error(ErrorCode::kInvalidArgument, "[data] {} inputs for the network, got {{{}}}", count, batch.names()));
  for (size_t k = 0; k < count; ++k) inputs.set(signature ? signature->inputs[k].name : batch[k].first, batch[k].second);
  return inputs;
}

// The first samples, in batches: what the network reads of them.
Result<std::vector<nn::NamedTensors>> inputs_of(const std::optional<program::Signature>& signature, const data::Dataset& set,
                                                int64_t samples) {
  constexpr int64_t kBatch = 64;
  std::vector<nn::NamedTensors> batches;
  for (int64_t begin = 0; begin < std::min(samples, set.size()); begin += kBatch) {
    std::vector<int64_t> indices(static_cast<size_t>(std::min({kBatch, samples - begin, set.size() - begin})));
    std::iota(indices.begin(), indices.end(), begin);
    BITLAB_TRY(const nn::NamedTensors batch, train::make_batch(set, indices));
    batches.push_back(read_by(signature, batch));
  }
  return batches;
}

// "name=dtype[sizes]", whose new symbols are declared.
Result<program::Port> parse_input(const std::string& text, program::Symbols& symbols) {
  const size_t equals = text.find('='), open = text.find('[');
  const auto other = [&] {
    return make_error(ErrorCode::kInvalidArgument, "[input] an input as image=float32[batch, 3, 224, 224], got '{}'", text);
  };
  if (equals == std::string::npos || open == std::string::npos || open < equals || text.back() != ']') return other();
  program::Port port{text.substr(0, equals), {}};
  BITLAB_TRY(port.type.dtype, program::parse_dtype(text.substr(equals + 1, open - equals - 1)));
  const std::string sizes = text.substr(open + 1, text.size() - open - 2);
  for (size_t begin = 0; begin <= sizes.size() && !sizes.empty();) {
    const size_t end = std::min(sizes.find(',', begin), sizes.size());
    std::string size = sizes.substr(begin, end - begin);
    std::erase(size, ' ');
    begin = end + 1;
    const size_t colon = size.find(':');
    const std::string name = std::isdigit(static_cast<unsigned char>(size[0])) != 0 ? "" : size.substr(0, colon);
    const bool has_digits = name.empty() || colon != std::string::npos;
    const std::string digits = name.empty() ? size : has_digits ? size.substr(colon + 1) : "";
    int64_t number = program::kMaxElements;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size() && number > 0;
    if (has_digits && !is_number) return other();
    port.type.shape.push_back(name.empty() ? program::Dim(number) : program::declared(symbols, name, 1, number));
  }
  return port;
}

Result<program::Signature> parse_inputs(const std::vector<std::string>& inputs, const deploy::ScriptNetwork& network) {
  if (inputs.size() != network.inputs().size())
    return make_error(ErrorCode::kInvalidArgument, "[input] an --input NAME=DTYPE[SIZES] for each of {{{}}}, got {}",
                      fmt::join(network.inputs(), ", "), inputs.size());
  program::Signature signature;
  for (const std::string& text : inputs) {
    BITLAB_TRY(program::Port port, parse_input(text, signature.symbols));
    signature.inputs.push_back(std::move(port));
  }
  return signature;
}

// The network as a learner of such data sees it: inputs by place, and its first output.
nn::Forward forward_by_place(convert::BitModel& model, const program::Signature& signature) {
  return [&model, signature](const nn::NamedTensors& batch) -> nn::NamedTensors {
    const nn::NamedTensors outputs = model.forward(read_by(signature, batch));
    return {{std::string(nn::kOutput), outputs[0].second}};
  };
}

}  // namespace

Result<Fitted> fit_run(const Run& run, const MixedPrecisionConfig& quant, int64_t samples) {
  BITLAB_TRY(const Datasets sets, load_datasets(run.config.data));
  BITLAB_TRY(const std::vector<nn::NamedTensors> inputs, inputs_of(run.model->signature(), *sets.training, samples));
  Run ternary = run;
  ternary.config.quant = quant;
  BITLAB_TRY(ternary.model, requantized(run, quant));
  train::ModuleLearner learner = learner_of(ternary);
  const train::Goal goal = learner.task().goal();
  const auto measure = [&] { return train::evaluate(learner, sets.test).value().at(goal.metric); };
  ternary.model->eval();
  BITLAB_TRY(auto report, deploy::quantize_for_deployment(*ternary.model, nn::forward_of(*ternary.model), inputs,
                                                          run.config.deploy, measure, ternary.model->signature()));
  return Fitted{std::move(ternary), std::move(report), goal};
}

Result<deploy::Deployment> deploy_run(const Run& run, const std::filesystem::path& path,
                                      const format::WriteOptions& written) {
  const std::map<std::string, std::string> metadata{{"model", run.config.model.name()},
                                                    {std::string(run.preprocess.kind()), run.preprocess.spec_json()}};
  return deploy::save(*run.model, example_of(run, kExamples), path,
                      {.signature = run.model->signature(), .metadata = metadata}, written);
}

nn::NamedTensors example_of(const program::Signature& signature) {
  torch::manual_seed(0);
  program::SymbolSizes at = program::kOnes;
  for (size_t i = 0; i < signature.symbols.size(); ++i)
    at.at(i) = std::clamp(i == 0 ? kExamples : kTokens, signature.symbols[i].min, signature.symbols[i].max);
  nn::NamedTensors example;
  for (const program::Port& port : signature.inputs) {
    const std::vector<int64_t> sizes = shape_at(port.type.shape, at);
    const at::ScalarType type = deploy::scalar_type(port.type.dtype);
    example.set(port.name, at::isFloatingType(type) ? at::randn(sizes, type) : at::randint(2, sizes, type));
  }
  return example;
}

Result<FileNetwork> load_network(const std::filesystem::path& path, const std::vector<std::string>& inputs) {
  FileNetwork network;
  BITLAB_TRY(const std::string_view format, format::format_of(path));
  if (format == "torchscript") {
    BITLAB_TRY(network.module, deploy::load_script(path));
    BITLAB_TRY(network.signature, parse_inputs(inputs, *network.module));
    return network;
  }
  if (!inputs.empty())
    return make_error(ErrorCode::kInvalidArgument, "[input] no --input with a file that tells its inputs, got '{}'",
                      inputs[0]);
  BITLAB_TRY(const program::Program program, format::read(format, path));
  BITLAB_TRY(network.module, deploy::network_of(program));
  network.signature = program.signature();
  network.metadata = program.metadata;
  return network;
}

Result<FittedNetwork> fit_network(FileNetwork& network, const MixedPrecisionConfig& quant, const DataConfig& data,
                                  int64_t samples) {
  BITLAB_TRY(const Datasets sets, load_datasets(data));
  const data::Preprocess preprocess = sets.test->preprocess();
  BITLAB_TRY(const std::vector<nn::NamedTensors> inputs, inputs_of(network.signature, *sets.training, samples));
  FittedNetwork fitted{convert::BitModel::wrap(network.module, quant), {}, {}};
  train::ModuleLearner learner(*fitted.model, forward_by_place(*fitted.model, network.signature), task_of(preprocess));
  fitted.goal = learner.task().goal();
  const auto measure = [&] { return train::evaluate(learner, sets.test).value().at(fitted.goal.metric); };
  fitted.model->eval();
  BITLAB_TRY(fitted.report, deploy::quantize_for_deployment(*fitted.model, nn::forward_of(*fitted.model), inputs, {},
                                                            measure, network.signature));
  network.metadata[std::string(preprocess.kind())] = preprocess.spec_json();
  return fitted;
}

Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples) {
  return deploy::compare_nodes(program, *run.model, nn::forward_of(*run.model), example_of(run, samples),
                               run.model->signature());
}

}  // namespace bitlab::cli
