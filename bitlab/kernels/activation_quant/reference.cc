// Portable: four values at a time, rounded by the library.
#include <cmath>

#include "bitlab/kernels/activation_quant/internal/body.h"

namespace bitlab::kernels {
namespace {

struct Portable {
  static constexpr int kWidth = 4;
  BITLAB_INLINE void store_block(int8_t* q, const Floats<4> (&values)[4]) {
    for (int i = 0; i < 16; ++i) q[i] = static_cast<int8_t>(std::nearbyint(values[i / 4][i % 4]));
  }
};

}  // namespace

bool activation_quant_reference(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a) {
  return quantize<Portable>(x, count, scale, q, a);
}

}  // namespace bitlab::kernels
