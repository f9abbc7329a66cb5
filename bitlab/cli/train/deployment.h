// What the commands do with deploy::, for the model of a run, and for networks of files that others wrote.
#pragma once

#include <filesystem>

#include "bitlab/cli/train/run_folder.h"
#include "bitlab/convert/bit_model.h"
#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/post_training.h"
#include "bitlab/deploy/script_network.h"

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

// Random floats of the signature's sizes, and other values of 0 and 1, which any table has.
nn::NamedTensors example_of(const program::Signature& signature);

// A file's network, for LibTorch to compute.
struct FileNetwork {
  std::shared_ptr<deploy::ScriptNetwork> module;
  program::Signature signature;
  std::map<std::string, std::string> metadata;
};

// Of a format that is read, which tells its inputs, or TorchScript, which does not: `inputs` tells them in the order of forward()'s arguments, each as
// "tokens=int64[batch, tokens:512]", a symbol with its largest size behind it where it has one. Errors: InvalidArgument (inputs for a format that tells them,
// none or another number for one that does not, another form), those of reading.
Result<FileNetwork> load_network(const std::filesystem::path& path, const std::vector<std::string>& inputs);

// Such a network without training.
struct FittedNetwork {
  std::shared_ptr<convert::BitModel> model;
  deploy::PostTrainingReport report;
  train::Goal goal;  // what the report's evaluations are, on the test samples
};

// Makes it ternary by `quant` and fits it to the first training samples of the data, which are its inputs by place; the data's preprocessing becomes part of
// its metadata. Errors: those of the data, of BitModel and of quantize_for_deployment().
Result<FittedNetwork> fit_network(FileNetwork& network, const MixedPrecisionConfig& quant, const DataConfig& data,
                                  int64_t samples);

// Writes the file. `module`: the network, or the one that was fitted. Errors: those of deploy::save().
template <class Module>
Result<deploy::Deployment> deploy_network(const FileNetwork& network, Module& module, const std::filesystem::path& path,
                                          const format::WriteOptions& written = {}) {
  return deploy::save(module, example_of(network.signature), path, {network.signature, network.metadata}, written);
}

// The program beside the run's model, on random samples. Errors: those of deploy::compare_nodes().
Result<std::vector<deploy::NodeDifference>> compare_run(const program::Program& program, const Run& run, int64_t samples);

}  // namespace bitlab::cli
