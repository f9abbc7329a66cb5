#include "bitlab/train/evaluate.h"

#include <cstring>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/data/loader.h"

namespace bitlab::train {
namespace {

at::ScalarType scalar_type(data::DType dtype) {
  return dtype == data::DType::kUInt8 ? at::kByte : dtype == data::DType::kInt64 ? at::kLong : at::kFloat;
}

struct Batches {
  int64_t begin = 0, end = 0;
};

// What this process runs of all batches.
Batches own_batches(int64_t batches, const std::shared_ptr<Peers>& peers) {
  const int64_t rank = rank_of(peers), size = size_of(peers);
  return {batches * rank / size, batches * (rank + 1) / size};
}

// Runs these batches and writes what the meter measures into rows of `numbers`.
Status run_batches(Learner& learner, const data::DatasetPtr& set, const Batches& batches, const EvaluateOptions& options,
                   Meter& meter, at::Tensor& numbers) {
  if (batches.begin == batches.end) return {};
  BITLAB_TRY(const auto loader, data::Loader::create(set, {.batch_size = options.batch_size, .workers = options.workers}));
  BITLAB_RETURN_IF_ERROR(loader->seek({.position = batches.begin}));
  const at::Device device = device_of(learner.parameters());
  for (int64_t i = batches.begin; i < batches.end; ++i) {
    BITLAB_TRY(const auto next, loader->next());
    const nn::NamedTensors batch = moved_to(device, tensors_of(*next, options.channels_last, device));
    const nn::NamedTensors outputs = learner.forward(batch);
    numbers[i].copy_(at::tensor(meter.measure(outputs, batch), at::kDouble));
    if (options.on_batch) options.on_batch(outputs, batch);
    if (options.progress)
      options.progress(std::min((i + 1) * options.batch_size, set->size()) - batches.begin * options.batch_size);
  }
  return {};
}

// In the order of the batches, whoever ran them.
std::vector<double> sums_of(const at::Tensor& numbers) {
  std::vector<double> sums(static_cast<size_t>(numbers.size(1)), 0);
  const auto rows = numbers.accessor<double, 2>();
  for (int64_t i = 0; i < rows.size(0); ++i)
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += rows[i][static_cast<int64_t>(j)];
  return sums;
}

}  // namespace

nn::NamedTensors tensors_of(const data::Sample& sample, bool channels_last, at::Device device) {
  nn::NamedTensors tensors;
  for (const data::Array& array : sample.arrays) {
    const auto options = at::TensorOptions(scalar_type(array.dtype)).pinned_memory(device.is_cuda());
    at::Tensor tensor = at::empty(array.shape, options);
    std::memcpy(tensor.mutable_data_ptr(), array.bytes.data(), array.bytes.size());
    if (channels_last && tensor.dim() == 4 && tensor.is_floating_point())
      tensor = at::empty(array.shape, options, at::MemoryFormat::ChannelsLast).copy_(tensor);
    tensors.set(array.name, std::move(tensor));
  }
  return tensors;
}

nn::NamedTensors moved_to(at::Device device, const nn::NamedTensors& tensors) {
  nn::NamedTensors moved;
  for (const auto& [name, tensor] : tensors) moved.set(name, tensor.to(device, tensor.scalar_type(), /*non_blocking=*/true));
  return moved;
}

Result<nn::NamedTensors> make_batch(const data::Dataset& set, std::span<const int64_t> indices) {
  for (const int64_t index : indices)
    if (index < 0 || index >= set.size())
      return make_error(ErrorCode::kInvalidArgument, "[data] indices from 0 to {}, got {}", set.size() - 1, index);
  BITLAB_TRY(const data::Sample batch, data::make_batch(set, set.preprocess(), indices));
  return tensors_of(batch);
}

double Evaluation::at(std::string_view metric) const {
  if (const double* value = find(metrics, metric); value != nullptr) return *value;
  std::string names;
  for (const Metric& m : metrics) names += (names.empty() ? "" : ", ") + m.name;
  throw Exception(make_error(ErrorCode::kUnknownName, "[evaluate] a metric of {{{}}}, got '{}'", names, metric));
}

Result<Evaluation> evaluate(Learner& learner, const data::DatasetPtr& set, const EvaluateOptions& options) try {
  if (set->size() < 1 || options.batch_size < 1)
    return make_error(ErrorCode::kInvalidArgument,
                      "[evaluate] at least one sample and a batch_size of at least 1, got {} and {}", set->size(),
                      options.batch_size);
  learner.train(false);
  const at::NoGradGuard no_grad;
  const std::unique_ptr<Meter> meter = learner.task().meter();
  const auto peers = meter->keeps_batches() ? nullptr : options.peers;
  const int64_t batches = ceil_div(set->size(), options.batch_size);
  at::Tensor numbers = at::zeros({batches, static_cast<int64_t>(meter->numbers())}, at::kDouble);
  BITLAB_RETURN_IF_ERROR(run_batches(learner, set, own_batches(batches, peers), options, *meter, numbers));
  if (peers != nullptr) peers->sum(numbers);  // the rows of other processes are 0 here
  return Evaluation{set->size(), meter->metrics(sums_of(numbers))};
} catch (const Exception& error) {
  return error.error();
} catch (const c10::Error& error) {
  return make_error(ErrorCode::kInvalidArgument, "[evaluate] a model that takes the data, got '{}'",
                    error.what_without_backtrace());
}

}  // namespace bitlab::train
