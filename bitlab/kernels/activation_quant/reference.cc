#include <cmath>
#include <cstring>

#include "bitlab/kernels/activation_quant/arguments.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::kernels {

bool activation_quant_reference(const float* x, int64_t count, int8_t* q, float* a) {
  // The bits of |x| order like its value, with infinity and NaN above all finite values.
  constexpr uint32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= kMagnitude;
    largest = bits > largest ? bits : largest;
  }
  if (largest >= kInfinity) return false;
  float absmax;
  std::memcpy(&absmax, &largest, 4);
  constexpr auto kMax = static_cast<float>(ternary::kActMax);
  const float inv = kMax / (absmax > ternary::kActEpsilon ? absmax : ternary::kActEpsilon);
  *a = 1.0F / inv;
  for (int64_t i = 0; i < count; ++i) {
    const float rounded = std::nearbyint(x[i] * inv);
    q[i] = static_cast<int8_t>(rounded > kMax ? kMax : rounded < -kMax ? -kMax : rounded);
  }
  return true;
}

}  // namespace bitlab::kernels
