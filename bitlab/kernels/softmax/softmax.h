// y[r, i] = exp(x[r, i] - max x[r]) / sum over j of exp(x[r, j] - max x[r]); the sum in the order of simd.h ("bounded").
#pragma once

#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

// e^x for x <= 0 to 2 units in the last place, by operations that round the same everywhere; 0 below -87.3.
float exp_nonpositive(float x);

// x, y [rows, columns]; y may be x.
void softmax(const float* x, float* y, int64_t rows, int64_t columns, ThreadPool& pool);

}  // namespace bitlab::kernels
