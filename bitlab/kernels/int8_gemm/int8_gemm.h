// Product of int8 activations and int8 weights, for layers that are kept at 8 bits; the epilogue is that of ternary_gemm:
//
//   acc[m, n] = sum over k of q[m, k] * w[n, k]      exact for |q|, |w| <= 127 and K <= 2^17 = 131,072
//
// Shapes, strides, results and threads: ternary_gemm.h, with one scale a row or tensor.
#pragma once

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/int8_gemm/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using Int8GemmRow = KernelRow<Int8GemmKernel>;
KernelList<Int8GemmRow> int8_gemm_kernels();

// w [rows, depth] to blocks of 64 rows, the last one as high as the rows that are left; a block runs over k in steps of 16, a step over four
// times 4 k, each with 4 bytes for every row of the block. With `groups`, each group's rows one after the other, packed by themselves.
// Errors: OutOfMemory; InvalidArgument: a weight of -128.
Result<AlignedBuffer> pack_int8(std::span<const int8_t> w, int64_t rows, int64_t depth, int64_t groups = 1);

// What one call of row.run needs, in bytes; a multiple of 64.
inline constexpr int64_t kInt8GemmScratchBytes = sums_bytes(1, 0);

// All tokens and rows, on the pool's threads. `scratch` is aligned to 64 and holds kInt8GemmScratchBytes for each thread.
void int8_gemm(const Int8GemmRow& row, const Int8GemmArgs& args, int64_t tokens, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
