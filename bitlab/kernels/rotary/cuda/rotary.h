// rotary on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// The formula of ../rotary.h; pointers are to the device's memory. `failed` becomes other than 0 for a position outside [0, most].
struct CudaRotary {
  const int64_t* positions;   // [tokens]
  const double* frequencies;  // [depth / 2], of rotary_frequencies()
  int64_t outer, tokens, depth, most;
  const float* x;
  float* y;  // may be x
  uint32_t* failed;
};
const char* cuda_rotary(const CudaRotary& rotary, void* stream);

}  // namespace bitlab::kernels
