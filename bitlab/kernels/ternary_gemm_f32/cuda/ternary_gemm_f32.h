// ternary_gemm_f32 on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

#include "bitlab/kernels/internal/cuda_image.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// The formula and the order of sums of ../ternary_gemm_f32.h; pointers are to the device's memory. x [tokens, depth] are rows x_stride apart, or with
// `gathers` patches of an image whose channels are in groups, as the rows are.
struct CudaTernaryF32 {
  TernaryGemmArgs p;  // weights in kMma, or with `bytes` int8 [rows, depth]; q and a are not used
  bool bytes;
  const float* x;
  int64_t x_stride, tokens;
  bool gathers;
  CudaImage image;
  int64_t groups;
};
const char* cuda_ternary_gemm_f32(const CudaTernaryF32& product, void* stream);

}  // namespace bitlab::kernels
