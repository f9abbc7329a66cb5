// BitLab's kernels on LibTorch's threads.
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/kernels/elementwise/elementwise.h"

namespace bitlab::ops {

// Runs on the threads that at::set_num_threads() decides about.
class TorchPool final : public ThreadPool {
 public:
  TorchPool();
  int threads() const override { return threads_; }
  void run(int64_t count, IndexTask task) override;

 private:
  int threads_;
};

// What the process's machine and BITLAB_KERNEL choose; looked up once. Throws NoKernel.
const kernels::Policy& policy();
const kernels::ActivationQuantRow& activation_quant_kernel();
const kernels::ElementwiseRow& elementwise_kernel();

}  // namespace bitlab::ops
