// A model's metrics on a data set, and the batches that training and evaluation feed.
#pragma once

#include <functional>
#include <span>

#include "bitlab/data/dataset.h"
#include "bitlab/train/learner.h"
#include "bitlab/train/peers.h"

namespace bitlab::train {

// The arrays of a sample or batch as tensors of their own; with `channels_last` pictures [B, C, H, W] lie so in memory. Those that a device is to get lie
// where it copies from while the host goes on (pinned memory).
nn::NamedTensors tensors_of(const data::Sample& sample, bool channels_last = false, at::Device device = at::kCPU);

// On a device, where they are not there yet, without waiting for the copies.
nn::NamedTensors moved_to(at::Device device, const nn::NamedTensors& tensors);

// The samples with these indices as a batch, preprocessed as the data set says. Errors: InvalidArgument (no index, one beyond the set), those of the
// data set.
Result<nn::NamedTensors> make_batch(const data::Dataset& set, std::span<const int64_t> indices);

struct Evaluation {
  int64_t samples = 0;
  std::vector<Metric> metrics;

  // Error (bitlab::Exception): UnknownName, listing the names.
  double at(std::string_view metric) const;
};

struct EvaluateOptions {
  int64_t batch_size = 256;
  int64_t workers = 0;         // threads that prepare batches
  bool channels_last = false;  // as TrainingConfig's
  // Processes that call this together, each of which runs a part of the batches; the metrics, the same bits as one process has, are those of all samples. Where the
  // task's meter keeps batches each process runs all of them.
  std::shared_ptr<Peers> peers{};
  std::function<void(int64_t samples)> progress{};  // gets the number of samples done by this process
  // Gets what the metrics are computed from, for what is more than metrics.
  std::function<void(const nn::NamedTensors& outputs, const nn::NamedTensors& batch)> on_batch{};
};

// Sets the learner to eval and runs it without gradients, on the device that has its parameters. Errors: InvalidArgument (no samples), those of the model and of the data set.
Result<Evaluation> evaluate(Learner& learner, const data::DatasetPtr& set, const EvaluateOptions& options = {});

}  // namespace bitlab::train
