// reduction on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

#include "bitlab/kernels/reduction/arguments.h"

namespace bitlab::kernels {

// The formulas, the order of sums and the arguments of ../reduction.h, but for kWeights, which attention has; pointers are to the device's memory.
const char* cuda_reduction(const ReductionArgs& args, int64_t rows, void* stream);

// y[row], int64: the first place of the largest value; of the first NaN, where there is one. x float32 or int64 [rows, columns].
// What is computed of rows of float32 (in float64, where it says so) or int64 (which wraps), in the order of their elements.
enum class CudaRow : int32_t {
  kSum,       // y [rows], of int64 alone; float32 has cuda_reduction()
  kMax,       // likewise
  kMin,       // likewise
  kProduct,   // y [rows]; in float64
  kSums,      // y [rows, columns], y_i = x_0 + ... + x_i; in float64
  kProducts,  // likewise; in float64
  kMaxima,  // y [rows, columns], the largest of x_0 to x_i, the last of equals, or NaN where there is one; places int64, where it stands
};
struct CudaRows {
  CudaRow op;
  bool is_float;
  const void* x;  // [rows, columns]
  int64_t rows, columns;
  void* y;
  int64_t* places;
};
const char* cuda_rows(const CudaRows& rows, void* stream);

// The first `length` of each row in order, y [rows, length], and where in x they stand, places [rows, length]: equals as they stand in x; NaN is larger than
// all else.
struct CudaSort {
  bool is_float, descending;
  const void* x;  // float32 or int64 [rows, columns]
  int64_t rows, columns, length;
  void* y;
  int64_t* places;
  int64_t* scratch;  // [rows, cuda_sort_stride(columns)]
};
// The least power of two that holds so many; 0 of few columns, which need no scratch.
constexpr int64_t cuda_sort_stride(int64_t columns) {
  constexpr int64_t kFew = 1024;
  if (columns <= kFew) return 0;
  int64_t stride = kFew;
  while (stride < columns) stride *= 2;
  return stride;
}
const char* cuda_sort(const CudaSort& sort, void* stream);

const char* cuda_argmax(const void* x, bool is_float, int64_t rows, int64_t columns, int64_t* y, void* stream);

}  // namespace bitlab::kernels
