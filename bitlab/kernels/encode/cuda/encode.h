// Encoders of weights (ternary/encode.h) on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

const char* cuda_encode_absmean(const float* w, int64_t parts, int64_t length, int8_t* t, float* scale, float* threshold,
                                double* scratch, void* stream);

}  // namespace bitlab::kernels
