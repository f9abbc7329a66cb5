// Products of two float32 activations, or of one and a matrix that is not stored as a layer's weight:
//
//   y[b, i, j] = sum over l of a[b, i, l] * c[b, l, j]      a [batch, m, k], c [batch, k, n] -> y [batch, m, n], row-major
//
// Sums run as in float_gemm ("bounded").
#pragma once

#include "bitlab/kernels/float_gemm/float_gemm.h"

namespace bitlab::kernels {

struct MatmulShape {
  int64_t batch = 1;
  int64_t m = 0, k = 0, n = 0;
};

int64_t matmul_scratch_bytes(const MatmulShape& shape, int threads);

// `scratch` is aligned to 64 and holds matmul_scratch_bytes for at least pool.threads() threads.
void matmul(const FloatGemmRow& kernel, const MatmulShape& shape, const float* a, const float* c, float* y, uint8_t* scratch,
            ThreadPool& pool);

}  // namespace bitlab::kernels
