// Data-parallel training: several processes have the same network and other samples, and make each step together.
//
//   torchrun --nproc-per-node 2 --no-python bitlab train --model lenet5 --data mnist -o runs/lenet5
//
// Each batch is `batch_size` samples of each process; a step is that of one process with all of them, but for layers that look at a whole batch: batch norm has the
// statistics of each process's own samples, and those of process 0 are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

#include "bitlab/base/result.h"

namespace bitlab::train {

// The processes, all of which call the same functions in the same order, on tensors of the same shapes. Those on devices travel over NCCL, where BitLab is built with
// it (docs/advanced/gpu.md), and else over gloo through the host's memory. Error of each (bitlab::Exception): IoError, where another process is gone.
class Peers {
 public:
  virtual ~Peers() = default;
  virtual int64_t rank() const = 0;  // from 0
  virtual int64_t size() const = 0;
  // Begins the sum over all, in place: every process has the same bits. They are there behind a call of what is returned, until which nobody touches the values.
  virtual std::function<void()> begin_sum(at::Tensor values) = 0;
  virtual void broadcast(at::Tensor values) = 0;            // those of process 0, in place
  virtual at::Tensor gather(const at::Tensor& values) = 0;  // [size, ...], in the order of ranks; of the CPU
  void sum(const at::Tensor& values) { begin_sum(values)(); }
};

// Of processes, where null is this one alone.
inline int64_t rank_of(const std::shared_ptr<Peers>& peers) { return peers == nullptr ? 0 : peers->rank(); }
inline int64_t size_of(const std::shared_ptr<Peers>& peers) { return peers == nullptr ? 1 : peers->size(); }

// Those that `torchrun`, or whoever sets the same variables, started with this one: WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT. Null where there are no
// others. Waits until all are there. Errors: InvalidArgument (a variable that is missing or no number), IoError (nobody answers).
Result<std::shared_ptr<Peers>> torchrun_peers();

}  // namespace bitlab::train
