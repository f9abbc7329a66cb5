// What the commands do with deploy::, for the model of a run.
#pragma once

#include <filesystem>

#include "bitlab/cli/train/run_folder.h"
#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/post_training.h"

namespace bitlab::cli {

// A run's network without training.
struct Fitted {
  Run run;  // with the ternary network
  deploy::PostTrainingReport report;
  train::Goal goal;  // what the report's evaluations are, on the test samples
};

// Makes the network of a run, which was trained in float, ternary by `quant`, and fits it to the first training samples as `deploy` of its config
// says. Errors: those of the data and of quantize_for_deployment().
Result<Fitted> fit_run(const Run& run, const MixedPrecisionConfig& quant, int64_t samples);

// Writes the file, which carries the model's name and how samples become its input. Errors: those of deploy::save().
Result<deploy::Deployment> deploy_run(const Run& run, const std::filesystem::path& path,
                                      const format::WriteOptions& written = {});

// The program beside the run's model, on random samples. Errors: those of deploy::compare_nodes().
Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples);

}  // namespace bitlab::cli
