#include "bitlab/kernels/rotary/rotary.h"

#include "bitlab/kernels/rotary/internal/rotation.h"

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

}  // namespace

std::vector<double> rotary_frequencies(double theta, int64_t depth) {
  std::vector<double> frequencies(static_cast<size_t>(depth / 2));
  const double root = frequencies.empty() ? 1 : inverse_root(theta, depth / 2);
  double frequency = 1;
  for (double& value : frequencies) {
    value = frequency;
    frequency *= root;
  }
  return frequencies;
}

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
