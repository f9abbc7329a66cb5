// A rotation by an angle, in float64 from basic operations alone, for the host and for CUDA devices (cuda_block.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "bitlab/kernels/internal/cuda_block.h"

namespace bitlab::kernels {
namespace {

// Taylor's coefficients 1 / (2k)! and 1 / (2k + 1)! in turn; on [-pi/4, pi/4] the next term is below 2^-60.
template <int kFirst>
BITLAB_HOST_DEVICE double series(double square) {
  double sum = 0;
  for (int k = 8; k >= 0; --k) {
    double factorial = 1;
    for (int i = 2; i <= 2 * k + kFirst; ++i) factorial *= i;
    sum = (k % 2 == 0 ? 1 : -1) / factorial + sum * square;
  }
  return sum;
}

struct Rotation {
  float cosine, sine;
};

BITLAB_HOST_DEVICE Rotation rotation(double angle) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  // pi / 2 in parts of 26 bits, so that their products with a number of quarters below 2^25 are exact
  constexpr double kPart1 = 0x1.921fb5p+0, kPart2 = 0x1.110b46p-26, kPart3 = 0x1.1a62633145c07p-54;
  const double quarters = ::floor(angle * kTwoOverPi + 0.5);
  const double rest = ((angle - quarters * kPart1) - quarters * kPart2) - quarters * kPart3;
  const double square = rest * rest;
  const double cosine = series<0>(square), sine = rest * series<1>(square);
  switch (static_cast<int64_t>(quarters) & 3) {
    case 0:
      return {static_cast<float>(cosine), static_cast<float>(sine)};
    case 1:
      return {static_cast<float>(-sine), static_cast<float>(cosine)};
    case 2:
      return {static_cast<float>(-cosine), static_cast<float>(-sine)};
    default:
      return {static_cast<float>(sine), static_cast<float>(-cosine)};
  }
}

}  // namespace
}  // namespace bitlab::kernels
