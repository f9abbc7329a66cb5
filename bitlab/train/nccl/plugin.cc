// libbitlab_nccl.so: what processes that train together have on their GPUs travels over NCCL, with LibTorch's process group. Built beside a LibTorch with CUDA
// (cmake/nccl.cmake), and loaded where a GPU trains (peers.cc).
#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL  // LibTorch is built with it, and does not say so to others
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "bitlab/train/internal/device_group.h"

// Connected at once, so that a device that cannot take part is an error here and not of the first sum.
extern "C" void bitlab_device_group(c10::intrusive_ptr<c10d::Backend>& group, const c10::intrusive_ptr<c10d::Store>& store,
                                    int rank, int size, c10::Device device) {
  auto made = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size);
  made->eagerConnectSingleDevice(device);
  group = std::move(made);
}

static_assert(std::is_same_v<decltype(bitlab_device_group), bitlab::train::MakeDeviceGroup>);
