// What the commands do with deploy::, for the model of a run.
#pragma once

#include <filesystem>

#include "bitlab/cli/train/run_folder.h"
#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/deploy.h"

namespace bitlab::cli {

// Writes the .bit file, which carries the model's name and how samples become its input. Errors: those of deploy::save().
Result<deploy::Deployment> deploy_run(const Run& run, const std::filesystem::path& path);

// The program beside the run's model, on random samples. Errors: those of deploy::compare_nodes().
Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples);

}  // namespace bitlab::cli
