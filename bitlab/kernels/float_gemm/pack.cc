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
  for (int64_t n = 0; n < rows; n += kFloatPanel, panels += kFloatPanel * depth) {
    const int64_t count = std::min(kFloatPanel, rows - n), squares = count / kSquare * kSquare;
    const float* from = w + n * depth;
    int64_t k = 0;
    for (; k + kSquare <= depth; k += kSquare)
      for (int64_t r = 0; r < squares; r += kSquare)
        transpose_square(from + r * depth + k, depth, panels + k * kFloatPanel + r, kFloatPanel);
    for (int64_t i = k; i < depth; ++i)
      for (int64_t r = 0; r < squares; ++r) panels[i * kFloatPanel + r] = from[r * depth + i];
    for (int64_t r = squares; r < kFloatPanel; ++r)
      for (int64_t i = 0; i < depth; ++i) panels[i * kFloatPanel + r] = r < count ? from[r * depth + i] : 0.0F;
  }
}

void pack_float_columns(const float* w, int64_t rows, int64_t depth, float* panels) {
  for (int64_t n = 0; n < rows; n += kFloatPanel) {
    const int64_t count = std::min(kFloatPanel, rows - n);
    for (int64_t k = 0; k < depth; ++k, panels += kFloatPanel)
      std::fill(std::copy_n(w + k * rows + n, count, panels), panels + kFloatPanel, 0.0F);
  }
}

}  // namespace bitlab::kernels
