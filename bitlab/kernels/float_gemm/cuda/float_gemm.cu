#include "bitlab/kernels/float_gemm/cuda/float_gemm.h"

#include <cmath>

#include "bitlab/kernels/internal/cuda_product.h"

namespace bitlab::kernels {
namespace {

template <bool kGathers>
struct FloatProduct {
  using Element = float;
  using Sum = float;
  struct Token {
    const float* row;
    CudaImage::Pixel pixel;
  };
  CudaFloatGemm g;
  int64_t batches, tokens, rows, depth;

  explicit FloatProduct(const CudaFloatGemm& product)
      : g(product),
        batches(kGathers ? product.groups : product.batches),
        tokens(product.tokens),
        rows(product.p.rows / product.groups),
        depth(product.p.depth) {}

  BITLAB_HOST_DEVICE Token token(int64_t batch, int64_t token) const {
    if constexpr (kGathers) return {g.p.x + batch * g.image.group_channels, g.image.pixel(token)};
    return {g.p.x + batch * g.x_batch + token * g.p.x_stride, {}};
  }
  BITLAB_HOST_DEVICE float x(int64_t, const Token& token, int64_t k) const {
    if constexpr (kGathers) {
      const int64_t place = g.image.place(token.pixel, k);
      return place < 0 ? 0 : token.row[place];
    }
    return token.row[k];
  }
  BITLAB_HOST_DEVICE float w(int64_t batch, int64_t row, int64_t k) const {
    if (g.by_columns) return g.p.panels[batch * g.w_batch + k * g.p.rows + row];
    if constexpr (kGathers) row += batch * rows;
    const int64_t panel = row / kFloatPanel * kFloatPanel, width = g.p.rows - panel;
    return g.p.panels[panel * g.p.depth + k * (width < kFloatPanel ? width : kFloatPanel) + row - panel];
  }
  BITLAB_HOST_DEVICE float add(float sum, float x, float w) const { return fmaf(x, w, sum); }
  BITLAB_HOST_DEVICE void finish(int64_t batch, int64_t token, int64_t row, float sum) const {
    if constexpr (kGathers) row += batch * rows;
    if (g.p.bias != nullptr) sum = sum + g.p.bias[row];
    g.p.y[(kGathers ? 0 : batch * g.y_batch) + token * g.p.y_stride + row] = sum == sum ? sum : __builtin_nanf("");
  }
};

}  // namespace

const char* cuda_float_gemm(const CudaFloatGemm& product, void* stream) {
  if (product.gathers) return cuda::start_product(FloatProduct<true>(product), stream);
  return cuda::start_product(FloatProduct<false>(product), stream);
}

}  // namespace bitlab::kernels
