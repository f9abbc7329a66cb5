// Element by element, in any order: y may be x. ("ieee_exact")
#pragma once

#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

void relu(const float* x, float* y, int64_t count, ThreadPool& pool);                 // x < 0 ? 0 : x; keeps -0 and NaN
void add(const float* a, const float* b, float* y, int64_t count, ThreadPool& pool);  // a + b

}  // namespace bitlab::kernels
