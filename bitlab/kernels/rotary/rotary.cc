#include "bitlab/kernels/rotary/rotary.h"

#include <array>
#include <cmath>

namespace bitlab::kernels {
namespace {

// theta^(-1 / n) by Newton's method on r^n theta = 1, which falls to the root from 1. Powers are products in a fixed order.
double inverse_root(double theta, int64_t n) {
  constexpr int kIterations = 96;  // each divides r^n by e until the quadratic phase: enough for any theta
  double root = 1;
  for (int k = 0; k < kIterations; ++k) {
    double power = 1, base = root;
    for (int64_t left = n; left > 0; left /= 2, base *= base)
      if (left % 2 != 0) power *= base;
    root -= root * (1 - 1 / (theta * power)) / static_cast<double>(n);
  }
  return root;
}

// Taylor's coefficients 1 / (2k)! and 1 / (2k + 1)! in turn; on [-pi/4, pi/4] the next term is below 2^-60.
template <int kFirst>
double series(double square) {
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

Rotation rotation(double angle) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  // pi / 2 in parts of 26 bits, so that their products with a number of quarters below 2^25 are exact
  constexpr double kPart1 = 0x1.921fb5p+0, kPart2 = 0x1.110b46p-26, kPart3 = 0x1.1a62633145c07p-54;
  const double quarters = std::floor(angle * kTwoOverPi + 0.5);
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

Status rotary_table(double theta, int64_t depth, std::span<const int64_t> positions, float* cosines, float* sines) {
  const int64_t half = depth / 2;
  const double root = half == 0 ? 1 : inverse_root(theta, half);
  for (const int64_t position : positions) {
    if (position < 0 || position > kMaxPosition)
      return make_error(ErrorCode::kInvalidArgument, "[rotary] positions from 0 to {}, got {}", kMaxPosition, position);
    double frequency = 1;
    for (int64_t i = 0; i < half; ++i, frequency *= root) {
      const Rotation r = rotation(static_cast<double>(position) * frequency);
      *cosines++ = r.cosine;
      *sines++ = r.sine;
    }
  }
  return {};
}

int64_t rotary_scratch_bytes(const RotaryShape& shape) {
  return shape.tokens * shape.depth * static_cast<int64_t>(sizeof(float));
}

Status rotary(const RotaryShape& shape, double theta, const int64_t* positions, const float* x, float* y, uint8_t* scratch,
              ThreadPool& pool) {
  const int64_t half = shape.depth / 2;
  auto* cosines = reinterpret_cast<float*>(scratch);
  float* sines = cosines + shape.tokens * half;
  BITLAB_RETURN_IF_ERROR(rotary_table(theta, shape.depth, {positions, static_cast<size_t>(shape.tokens)}, cosines, sines));
  pool.run(shape.outer, [&](int64_t outer, int) {
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const int64_t row = (outer * shape.tokens + t) * shape.depth;
      const float *cosine = cosines + t * half, *sine = sines + t * half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[row + i], b = x[row + half + i];
        y[row + i] = a * cosine[i] - b * sine[i];
        y[row + half + i] = b * cosine[i] + a * sine[i];
      }
    }
  });
  return {};
}

}  // namespace bitlab::kernels
