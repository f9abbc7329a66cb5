#include "bitlab/cli/train/deployment.h"

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

}  // namespace

Result<deploy::Deployment> deploy_run(const Run& run, const std::filesystem::path& path) {
  constexpr int64_t kExamples = 16;
  const std::map<std::string, std::string> metadata{{"model", run.config.model.name()},
                                                    {std::string(run.preprocess.kind()), run.preprocess.spec_json()}};
  return deploy::save(*run.model, example_of(run, kExamples), path,
                      {.signature = run.model->signature(), .metadata = metadata});
}

Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples) {
  return deploy::compare_nodes(program, *run.model, nn::forward_of(*run.model), example_of(run, samples),
                               run.model->signature());
}

}  // namespace bitlab::cli
