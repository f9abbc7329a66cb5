// What a reduction kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// What is computed for a row x of n values. Sums are taken in the order of simd.h.
enum class Reduction : uint8_t {
  kSoftmax,    // y_i = e^(z_i - max z) / sum of e^(z_j - max z), z_i = x_i scale + mask_i
  kWeights,    // the same before the division: y_i = e^(z_i - max z), total = their sum; all 0 where every z is -infinity
  kLayerNorm,  // y_i = ((x_i - mean) / sqrt(variance + eps)) w_i + b_i, variance = sum (x_i - mean)^2 / n; arXiv:1607.06450
  kRmsNorm,    // y_i = (x_i / sqrt(sum x_i^2 / n + eps)) w_i + b_i; arXiv:1910.07467
  kSum,        // y = sum x_i
  kMean,       // y = sum x_i / n
  kMax,        // y = the largest x_i; NaN where there is one
  kMin,        // y = the smallest x_i; NaN where there is one
};

struct ReductionArgs {
  Reduction op = Reduction::kSoftmax;
  const float* x = nullptr;  // [rows, columns]
  int64_t columns = 0;
  const float* weight = nullptr;  // [columns] of the norms, or null: 1
  const float* bias = nullptr;    // [columns] of the norms, or null: 0
  float eps = 0;                  // of the norms
  float scale = 1;                // of softmax, and its mask: null, or [columns], the same for all rows
  const float* mask = nullptr;
  int64_t mask_step = 1;   // 0: one value for all columns
  float* total = nullptr;  // [rows] of kWeights
  float* y = nullptr;      // [rows, columns], may be x; [rows] of kSum to kMin
};

// The rows [begin, end).
using ReductionKernel = void(const ReductionArgs& args, int64_t begin, int64_t end);

#define BITLAB_KERNEL(name, ...) ReductionKernel reduction_##name;
#include "bitlab/kernels/reduction/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
