#include <cmath>

#include "bitlab/kernels/float_gemm/cuda/float_gemm.h"
#include "bitlab/kernels/internal/cuda_product.h"

namespace bitlab::kernels {
namespace {

template <bool kGathers>
struct FloatProduct {
  using Element = float;
  using Sum = float;
  using Input = CudaProductInput<Element, kGathers>;
  using Token = typename Input::Token;
  using Tap = typename Input::Tap;
  CudaFloatGemm g;
  Input input;
  int64_t batches, tokens, rows, depth;

  explicit FloatProduct(const CudaFloatGemm& product)
      : g(product),
        input{product.p.x, product.image, product.x_batch, product.p.x_stride},
        batches(kGathers ? product.groups : product.batches),
        tokens(product.tokens),
        rows(product.p.rows / product.groups),
        depth(product.p.depth) {}

  BITLAB_HOST_DEVICE Token token(int64_t batch, int64_t token) const { return input.token(batch, token); }
  BITLAB_HOST_DEVICE Tap tap(int64_t k) const { return input.tap(k); }
  BITLAB_HOST_DEVICE void advance(Tap& tap) const { input.advance(tap); }
  BITLAB_HOST_DEVICE Element x(int64_t, const Token& token, const Tap& tap) const { return input.at(token, tap); }
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
