// resample on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// The formula of ../resample.h; pointers are to the device's memory.
struct CudaResample {
  const int64_t* places[3];  // of a ResampleAxis each: depth, height, width
  const float* weights[3];
  int64_t taps[3], out[3], input[3];
  int64_t channels;
  const float* x;
  float* y;
  int64_t count;  // values of y
};
const char* cuda_resample(const CudaResample& resample, void* stream);

}  // namespace bitlab::kernels
