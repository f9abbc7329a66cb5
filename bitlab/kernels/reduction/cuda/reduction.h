// reduction on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

#include "bitlab/kernels/reduction/arguments.h"

namespace bitlab::kernels {

// The formulas, the order of sums and the arguments of ../reduction.h, but for kWeights, which attention has; pointers are to the device's memory.
const char* cuda_reduction(const ReductionArgs& args, int64_t rows, void* stream);

// y[row], int64: the first place of the largest value; of the first NaN, where there is one. x float32 or int64 [rows, columns].
const char* cuda_argmax(const void* x, bool is_float, int64_t rows, int64_t columns, int64_t* y, void* stream);

}  // namespace bitlab::kernels
