// Copies from a device's memory to the shared memory of a block that run beside what follows them (cp.async, sm_80 and newer).
#pragma once

#include <cstdint>

#include "bitlab/kernels/internal/cuda_block.h"

#if defined(__CUDACC__)
#include <cuda_pipeline.h>
#endif
#if !defined(__CUDA_ARCH__)
#include <vector>
#endif

namespace bitlab::cuda {

// On the host a copy is made when it is waited for, and no sooner, so that what reads too early is seen.
class Copies {
 public:
  static constexpr int kBytes = 16;  // of a copy, and the alignment of both sides

  // A thread's; zeros where nothing exists, and `from` is not read then.
  BITLAB_HOST_DEVICE void copy(void* to, const void* from, bool exists) {
#if defined(__CUDA_ARCH__)
    __pipeline_memcpy_async(to, from, kBytes, exists ? 0 : kBytes);
#else
    copies_.push_back({aligned<kBytes>(to), exists ? aligned<kBytes>(from) : nullptr});
#endif
  }
  // For all copies of the calling thread; those of the block's others are there behind block.sync().
  BITLAB_HOST_DEVICE void wait() {
#if defined(__CUDA_ARCH__)
    __pipeline_commit();
    __pipeline_wait_prior(0);
#else
    for (const auto& [to, from] : copies_) {
      if (from == nullptr) {
        std::memset(to, 0, kBytes);
      } else {
        std::memcpy(to, from, kBytes);
      }
    }
    copies_.clear();
#endif
  }

 private:
#if !defined(__CUDA_ARCH__)
  struct Copy {
    void* to;
    const void* from;
  };
  std::vector<Copy> copies_;
#endif
};

}  // namespace bitlab::cuda
