#include "bitlab/train/evaluate.h"

#include <algorithm>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eq.h>

namespace bitlab::train {

Batch make_batch(const data::ImageDataset& set, std::span<const int64_t> indices) {
  const auto size = static_cast<int64_t>(indices.size()), values = set.spec.values();
  Batch batch{at::empty({size, set.spec.channels, set.spec.height, set.spec.width}), at::empty({size}, at::kLong)};
  std::vector<uint8_t> pixels(static_cast<size_t>(size * values));
  auto* target = batch.target.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < size; ++i) {
    const int64_t index = indices[static_cast<size_t>(i)];
    std::copy_n(set.pixels.begin() + index * values, values, pixels.begin() + i * values);
    target[i] = set.labels[static_cast<size_t>(index)];
  }
  data::normalize(set.spec, pixels, {batch.input.mutable_data_ptr<float>(), pixels.size()});
  return batch;
}

Result<Evaluation> evaluate(Learner& learner, const data::ImageDataset& set, int64_t batch_size,
                            const std::function<void(int64_t)>& progress) {
  if (set.count < 1 || batch_size < 1)
    return make_error(ErrorCode::kInvalidArgument, "[evaluate] samples and a batch size of at least 1, got {} and {}",
                      set.count, batch_size);
  std::vector<int64_t> order(static_cast<size_t>(set.count));
  std::iota(order.begin(), order.end(), int64_t{0});
  learner.train(false);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> logits;
  int64_t right = 0;
  try {
    for (int64_t begin = 0; begin < set.count; begin += batch_size) {
      const int64_t size = std::min(batch_size, set.count - begin);
      const Batch batch = make_batch(set, std::span(order).subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
      logits.push_back(learner.forward(batch).at("logits"));
      right += logits.back().argmax(1).eq(batch.target).sum().item<int64_t>();
      if (progress) progress(begin + size);
    }
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[evaluate] a model that takes the data, got '{}'",
                      error.what_without_backtrace());
  }
  return Evaluation{at::cat(logits).contiguous(), static_cast<double>(right) / static_cast<double>(set.count)};
}

}  // namespace bitlab::train
