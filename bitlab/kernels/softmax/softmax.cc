#include "bitlab/kernels/softmax/softmax.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "bitlab/kernels/simd.h"

namespace bitlab::kernels {

float exp_nonpositive(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. ln 2 is split so that n * kLn2High is exact (Cody and Waite); the polynomial is the
  // Taylor series to r^7, whose remainder is below 2^-24 relative on that interval.
  constexpr float kLog2e = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kSmallest = -87.3F, kRoundToInteger = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  if (!(x >= kSmallest)) return x < kSmallest ? 0.0F : x;             // NaN passes through
  const float n = (x * kLog2e + kRoundToInteger) - kRoundToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0F / 5040.0F;
  for (const float c : {1.0F / 720.0F, 1.0F / 120.0F, 1.0F / 24.0F, 1.0F / 6.0F, 0.5F, 1.0F, 1.0F}) p = p * r + c;
  const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(n) + 127);
  return p * std::bit_cast<float>(exponent << 23);
}

void softmax(const float* x, float* y, int64_t rows, int64_t columns, ThreadPool& pool) {
  pool.run(rows, [=](int64_t row, int) {
    const float* in = x + row * columns;
    float* out = y + row * columns;
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < columns; ++i) largest = in[i] > largest || in[i] != in[i] ? in[i] : largest;
    for (int64_t i = 0; i < columns; ++i) out[i] = exp_nonpositive(in[i] - largest);
    F32x16 sum{}, values;
    for (int64_t i = 0; i < columns; i += kLanes) {
      load_some(values, out + i, std::min(kLanes, columns - i));
      sum += values;
    }
    const float total = tree_sum(sum);
    for (int64_t i = 0; i < columns; ++i) out[i] /= total;
  });
}

}  // namespace bitlab::kernels
