// float_gemm on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/internal/cuda_image.h"

namespace bitlab::kernels {

// The formula of ../float_gemm.h for each of some batches; pointers are to the device's memory. x [tokens, depth] are rows, or with `gathers` patches of
// an image; w are panels, or with `by_columns` a row-major matrix [depth, rows].
struct CudaFloatGemm {
  FloatGemmArgs p;
  int64_t tokens = 0;
  bool by_columns = false;
  int64_t batches = 1, x_batch = 0, w_batch = 0, y_batch = 0;  // elements from one batch to the next
  bool gathers = false;
  CudaImage image{};
  int64_t groups = 1;  // of channels and rows, with `gathers`: a batch each
};
const char* cuda_float_gemm(const CudaFloatGemm& product, void* stream);

}  // namespace bitlab::kernels
