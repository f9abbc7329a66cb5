#include "bitlab/train/evaluate.h"

#include <cstring>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bitlab/data/loader.h"

namespace bitlab::train {
namespace {

at::ScalarType scalar_type(data::DType dtype) {
  return dtype == data::DType::kUInt8 ? at::kByte : dtype == data::DType::kInt64 ? at::kLong : at::kFloat;
}

Result<Evaluation> run_batches(Learner& learner, data::Loader& loader, const EvaluateOptions& options) {
  const std::unique_ptr<Meter> meter = learner.task().meter();
  int64_t done = 0;
  for (;;) {
    BITLAB_TRY(const auto next, loader.next());
    if (!next) break;
    const nn::NamedTensors batch = tensors_of(*next, options.channels_last);
    const nn::NamedTensors outputs = learner.forward(batch);
    meter->add(outputs, batch);
    if (options.on_batch) options.on_batch(outputs, batch);
    done = std::min(done + options.batch_size, loader.samples());
    if (options.progress) options.progress(done);
  }
  return Evaluation{done, meter->metrics()};
}

}  // namespace

nn::NamedTensors tensors_of(const data::Sample& sample, bool channels_last) {
  nn::NamedTensors tensors;
  for (const data::Array& array : sample.arrays) {
    at::Tensor tensor = at::empty(array.shape, scalar_type(array.dtype));
    std::memcpy(tensor.mutable_data_ptr(), array.bytes.data(), array.bytes.size());
    if (channels_last && tensor.dim() == 4 && tensor.is_floating_point())
      tensor = at::empty_like(tensor, at::MemoryFormat::ChannelsLast).copy_(tensor);
    tensors.set(array.name, std::move(tensor));
  }
  return tensors;
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
  BITLAB_TRY(const auto loader, data::Loader::create(set, {.batch_size = options.batch_size, .workers = options.workers}));
  learner.train(false);
  const at::NoGradGuard no_grad;
  return run_batches(learner, *loader, options);
} catch (const Exception& error) {
  return error.error();
} catch (const c10::Error& error) {
  return make_error(ErrorCode::kInvalidArgument, "[evaluate] a model that takes the data, got '{}'",
                    error.what_without_backtrace());
}

}  // namespace bitlab::train
