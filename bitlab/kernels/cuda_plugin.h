// libbitlab_cuda.so, the kernels for NVIDIA GPUs: a library of its own that is loaded when a device is first asked for, so that programs run where it
// or a driver is missing. A table of functions crosses its border.
//
// Pointers are to the memory of the current device, the stream is a cudaStream_t, and a function returns as soon as its work is on the stream: null, or
// what is wrong. Results have the bits of the CPU. NaN and infinity raise no error, which the host would have to wait for: they make NaN of the scales
// that depend on them, and so of every result.
#pragma once

#include <cstdint>

#include "bitlab/base/result.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

struct CudaPlugin {
  static constexpr int32_t kVersion = 1;  // of this struct
  int32_t version;

  // activation_quant/activation_quant.h: x float32 [rows, columns] -> q int8 [rows, columns], rows q_stride bytes apart and zero between them,
  // a float32 [rows]. inv: 0, or that of a static step. scratch: [rows].
  const char* (*activation_quant)(const float* x, int64_t rows, int64_t columns, float limit, float inv, int8_t* q,
                                  int64_t q_stride, float* a, uint32_t* scratch, void* stream);

  // ternary/encode.h for absmean: w float32 [parts, length], where a part shares a scale -> t int8, scale and threshold float32 [parts]. scratch:
  // float64 [2 * parts * ceil(length / 4096)].
  const char* (*encode_absmean)(const float* w, int64_t parts, int64_t length, int8_t* t, float* scale, float* threshold,
                                double* scratch, void* stream);

  // What follows exact sums, int32 [tokens, rows], sum_stride apart: y = ((float(sum) * a[token / tokens_a_scale]) * scale[row * scale_stride]) +
  // bias[row], float32 [tokens, rows]. bias may be null.
  const char* (*finish_sums)(const int32_t* sums, int64_t tokens, int64_t rows, int64_t sum_stride, const float* a,
                             int64_t tokens_a_scale, const float* scale, int64_t scale_stride, const float* bias, float* y,
                             void* stream);

  // ternary_gemm/cuda/ternary_gemm.h; `product` is a CudaProduct.
  const char* (*ternary_gemm)(const TernaryGemmArgs* args, int64_t tokens, int32_t product, void* stream);
};

// Looked for once: beside the library that this code is part of, then where the system's loader looks. Error: Unsupported, with what was expected and
// found.
const Result<const CudaPlugin*>& cuda_plugin();

}  // namespace bitlab::kernels
