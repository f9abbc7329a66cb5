// grid_sample on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// The formula of ../grid_sample.h; pointers are to the device's memory.
struct CudaGridSample {
  int64_t channels, height, width, places;
  bool is_nearest, align_corners, moves, reflects;  // moves: places outside are moved inside, which `reflects` mirrors first
  const float *x, *grid;
  float* y;
  int64_t count;  // places of all samples
};
const char* cuda_grid_sample(const CudaGridSample& layer, void* stream);

}  // namespace bitlab::kernels
