#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"

#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"

namespace bitlab::kernels {
namespace {

struct EachOfEmbedding : CudaEmbedding {
  template <class T>
  BITLAB_HOST_DEVICE T element(int64_t at) const {
    return reinterpret_cast<const T*>(p.weights)[at];
  }
  BITLAB_HOST_DEVICE float of_floats(int64_t row, int64_t k) const {
    if (table == CudaTable::kFloat32) return element<float>(row * p.depth + k);
    if (table == CudaTable::kFloat16) return half_value(element<uint16_t>(row * p.depth + k));
    if (table == CudaTable::kBFloat16) return bfloat_value(element<uint16_t>(row * p.depth + k));
    const int64_t panel = row / kFloatPanel * kFloatPanel, width = p.rows - panel;
    return element<float>(panel * p.depth + k * (width < kFloatPanel ? width : kFloatPanel) + row - panel);
  }
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t token = cuda::divided(i, p.depth), k = i - token * p.depth, row = indices[token];
    if (row < 0 || row >= p.rows) {
      *failed = 1;
      return;
    }
    if (table != CudaTable::kTernary && table != CudaTable::kInt8) {
      y[i] = of_floats(row, k);
      return;
    }
    const int t = table == CudaTable::kTernary ? mma_weight(p.weights, row, k, p.depth) : element<int8_t>(row * p.depth + k);
    float scale = p.group == 0 ? p.scale[row * p.scale_stride] : group_scale_at(p, k / p.group, row);
    if (t < 0 && p.scale_neg != nullptr) scale = p.scale_neg[row * p.scale_stride];
    y[i] = static_cast<float>(t) * scale;
  }
};

}  // namespace

const char* cuda_embedding(const CudaEmbedding& embedding, void* stream) {
  return cuda::for_each(EachOfEmbedding{embedding}, stream);
}

}  // namespace bitlab::kernels
