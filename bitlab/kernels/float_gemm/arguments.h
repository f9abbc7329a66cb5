// What a float_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// Rows of w lie in panels of so many: [panel][k][row of the panel], so that a vector holds one k of many outputs. The last panel is as wide as the
// rows that are left.
inline constexpr int64_t kFloatPanel = 16;

struct FloatGemmArgs {
  const float* panels;  // w [rows, depth], from pack_float_rows() or pack_float_columns()
  int64_t rows;         // N
  int64_t depth;        // K
  const float* x;       // [tokens, depth]
  int64_t x_stride;
  const float* bias;  // [rows], or null
  float* y;           // [tokens, rows]
  int64_t y_stride;
  // Between one k and the next of a whole panel, and between panels. A row-major transpose of w [depth, rows] is in panels as it is, where rows are a
  // multiple of kFloatPanel: k_stride = rows, panel_stride = kFloatPanel.
  int64_t k_stride = kFloatPanel;
  int64_t panel_stride = kFloatPanel * depth;
  int64_t first = 0;       // k of the panels that meets x[0]: a product over a part of k
  bool continues = false;  // the sums begin with what y holds, not with 0
};

using FloatGemmKernel = void(const FloatGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                             int64_t row_end);

#define BITLAB_KERNEL(name, ...) FloatGemmKernel float_gemm_##name;
#include "bitlab/kernels/float_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
