#include <algorithm>
#include <cstring>

#include "bitlab/kernels/float_gemm/float_gemm.h"

namespace bitlab::kernels {
namespace {

constexpr int kSquare = 4;  // transposed in registers that every machine has
using Quad = float __attribute__((vector_size(4 * kSquare)));

void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  Quad r[kSquare], t[kSquare];
  for (int i = 0; i < kSquare; ++i) std::memcpy(&r[i], from + i * from_stride, sizeof(Quad));
  t[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), t[1] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  t[2] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), t[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(t[0], t[1], 0, 1, 4, 5), r[1] = __builtin_shufflevector(t[0], t[1], 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(t[2], t[3], 0, 1, 4, 5), r[3] = __builtin_shufflevector(t[2], t[3], 2, 3, 6, 7);
  for (int i = 0; i < kSquare; ++i) std::memcpy(to + i * to_stride, &r[i], sizeof(Quad));
}

}  // namespace

void pack_float_rows(const float* w, int64_t rows, int64_t depth, float* panels) {
  for (int64_t n = 0; n < rows; n += kFloatPanel) {
    const int64_t width = std::min(kFloatPanel, rows - n), squares = width / kSquare * kSquare,
                  whole = depth / kSquare * kSquare;
    for (int64_t k = 0; k < whole; k += kSquare)
      for (int64_t r = 0; r < squares; r += kSquare)
        transpose_square(w + r * depth + k, depth, panels + k * width + r, width);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = k < whole ? squares : 0; r < width; ++r) panels[k * width + r] = w[r * depth + k];
    w += width * depth, panels += width * depth;
  }
}

void pack_float_columns(const float* w, int64_t rows, int64_t depth, float* panels) {
  for (int64_t n = 0; n < rows; n += kFloatPanel)
    for (int64_t k = 0; k < depth; ++k) panels = std::copy_n(w + k * rows + n, std::min(kFloatPanel, rows - n), panels);
}

}  // namespace bitlab::kernels
