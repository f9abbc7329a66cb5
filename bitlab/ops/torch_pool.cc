#include "bitlab/ops/internal/torch_pool.h"

#include <atomic>

#include <ATen/Parallel.h>

#include "bitlab/base/internal/float_environment.h"

namespace bitlab::ops {

TorchPool::TorchPool() : threads_(at::in_parallel_region() ? 1 : at::get_num_threads()) {}

// Each item of parallel_for is a worker that takes indices as it comes to them: worker numbers hold whatever LibTorch's threads are
// called, and uneven tasks balance.
void TorchPool::run(int64_t count, IndexTask task) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(threads_, count), 1, [&](int64_t begin, int64_t end) {
    const ScopedFloatEnvironment environment;
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t index = next++; index < count; index = next++) task(index, static_cast<int>(worker));
  });
}

const kernels::Policy& policy() {
  static const kernels::Policy from_environment = kernels::Policy::from_environment();
  return from_environment;
}

const kernels::ActivationQuantRow& activation_quant_kernel() {
  static const auto* row = kernels::select(kernels::activation_quant_kernels(), this_machine(), policy()).value();
  return *row;
}

const kernels::ElementwiseRow& elementwise_kernel() {
  static const auto* row = kernels::select(kernels::elementwise_kernels(), this_machine(), policy()).value();
  return *row;
}

}  // namespace bitlab::ops
