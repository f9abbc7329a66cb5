// activation_quant on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

const char* cuda_activation_quant(const float* x, int64_t rows, int64_t columns, float limit, float inv, int8_t* q,
                                  int64_t q_stride, float* a, uint32_t* scratch, uint32_t* failed, void* stream);

}  // namespace bitlab::kernels
