// activation_quant on a CUDA device; see CudaPlugin. Pointers are to the device's memory.
#pragma once

#include <cstdint>

#include "bitlab/kernels/cuda_type.h"

namespace bitlab::kernels {

// ../activation_quant.h: x [rows, columns] -> q int8 [rows, columns], rows q_stride bytes apart and zero between them, a float32 [rows].
struct CudaActivationQuant {
  const void* x;
  CudaType type;  // of x: float32, or float16 or bfloat16, whose values are float32
  int64_t rows, columns;
  float limit, inv;  // inv: 0, or that of a static step
  int8_t* q;
  int64_t q_stride;
  float* a;
  uint32_t* scratch;  // [rows]
  uint32_t* failed;   // null, or what becomes other than 0 where a value is not finite
};
const char* cuda_activation_quant(const CudaActivationQuant& work, void* stream);

}  // namespace bitlab::kernels
