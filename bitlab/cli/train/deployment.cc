#include "bitlab/cli/train/deployment.h"

#include <algorithm>
#include <numeric>

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <torch/utils.h>

namespace bitlab::cli {
namespace {

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

// The first samples, in batches: what the network reads of them.
Result<std::vector<nn::NamedTensors>> inputs_of(const Run& run, const data::Dataset& set, int64_t samples) {
  constexpr int64_t kBatch = 64;
  std::vector<nn::NamedTensors> batches;
  const auto signature = run.model->signature();
  for (int64_t begin = 0; begin < std::min(samples, set.size()); begin += kBatch) {
    std::vector<int64_t> indices(static_cast<size_t>(std::min({kBatch, samples - begin, set.size() - begin})));
    std::iota(indices.begin(), indices.end(), begin);
    BITLAB_TRY(const nn::NamedTensors batch, train::make_batch(set, indices));
    nn::NamedTensors inputs;
    // Networks read what data begin with, by place.
    const size_t count = signature ? signature->inputs.size() : 1;
    for (size_t k = 0; k < count; ++k) inputs.set(signature ? signature->inputs[k].name : batch[k].first, batch[k].second);
    batches.push_back(std::move(inputs));
  }
  return batches;
}

}  // namespace

Result<Fitted> fit_run(const Run& run, const MixedPrecisionConfig& quant, int64_t samples) {
  BITLAB_TRY(const Datasets sets, load_datasets(run.config.data));
  BITLAB_TRY(const std::vector<nn::NamedTensors> inputs, inputs_of(run, *sets.training, samples));
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
  constexpr int64_t kExamples = 16;
  const std::map<std::string, std::string> metadata{{"model", run.config.model.name()},
                                                    {std::string(run.preprocess.kind()), run.preprocess.spec_json()}};
  return deploy::save(*run.model, example_of(run, kExamples), path,
                      {.signature = run.model->signature(), .metadata = metadata}, written);
}

Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples) {
  return deploy::compare_nodes(program, *run.model, nn::forward_of(*run.model), example_of(run, samples),
                               run.model->signature());
}

}  // namespace bitlab::cli
