// Pooling on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

struct CudaWindow {  // a PoolWindow
  int64_t first, taps, span;
};

// The formulas of ../pool.h; pointers are to the device's memory.
struct CudaPool {
  const CudaWindow* windows;  // of depth, then height, then width
  int64_t out[3], input[3], dilation[3];
  int64_t channels;
  bool is_max;
  bool counts_padding;  // of averages: PoolDivisor
  int64_t number;
  const float* x;
  float* y;
  int64_t count;  // values of y
};
const char* cuda_pool(const CudaPool& pool, void* stream);

}  // namespace bitlab::kernels
