#include "bitlab/kernels/resample/resample.h"

#include <algorithm>
#include <cmath>

namespace bitlab::kernels {
namespace {

constexpr double kCubic = -0.75;

// The weight of a value `distance` from the place.
double cubic_weight(double distance) {
  const double d = std::fabs(distance);
  if (d <= 1) return ((kCubic + 2) * d - (kCubic + 3)) * d * d + 1;
  return ((d - 5) * d + 8) * d * kCubic - 4 * kCubic;
}

}  // namespace

ResampleAxis resample_axis(ResampleMode mode, bool align_corners, int64_t input, int64_t out) {
  ResampleAxis axis{input, mode == ResampleMode::kNearest ? 1 : mode == ResampleMode::kLinear ? 2 : 4, {}, {}};
  const auto n = static_cast<double>(input), m = static_cast<double>(out);
  for (int64_t i = 0; i < out; ++i) {
    const auto at = static_cast<double>(i);
    if (mode == ResampleMode::kNearest) {
      axis.places.push_back(std::min(i * input / out, input - 1));
      axis.weights.push_back(1);
      continue;
    }
    double place = align_corners ? (out > 1 ? at * (n - 1) / (m - 1) : 0) : (at + 0.5) * n / m - 0.5;
    if (mode == ResampleMode::kLinear) place = std::max(place, 0.0);
    const double whole = std::floor(place), part = place - whole;
    for (int64_t tap = 0; tap < axis.taps; ++tap) {
      const int64_t step = mode == ResampleMode::kLinear ? tap : tap - 1;
      const double weight =
          mode == ResampleMode::kLinear ? (tap == 0 ? 1 - part : part) : cubic_weight(part - static_cast<double>(step));
      axis.places.push_back(std::clamp<int64_t>(static_cast<int64_t>(whole) + step, 0, input - 1));
      axis.weights.push_back(static_cast<float>(weight));
    }
  }
  return axis;
}

void resample(const ResampleShape& s, const float* x, float* y, ThreadPool& pool) {
  const auto& [dz, dy, dx] = s.axes;
  const int64_t lines = dz.out() * dy.out(), width = dx.out(), sample = dz.input * dy.input * dx.input * s.channels;
  if (lines * width == 0) return;
  pool.run(s.batch * lines, [&](int64_t line, int) {
    const float* in = x + line / lines * sample;
    const int64_t oz = line % lines / dy.out() * dz.taps, oy = line % dy.out() * dy.taps;
    float* out = y + line * width * s.channels;
    for (int64_t i = 0; i < width; ++i, out += s.channels) {
      bool is_first = true;
      for (int64_t kz = oz; kz < oz + dz.taps; ++kz)
        for (int64_t ky = oy; ky < oy + dy.taps; ++ky) {
          const auto z = static_cast<size_t>(kz), v = static_cast<size_t>(ky);
          const int64_t row = dz.places[z] * dy.input + dy.places[v];
          for (int64_t kx = 0; kx < dx.taps; ++kx) {
            const auto u = static_cast<size_t>(i * dx.taps + kx);
            const float weight = dz.weights[z] * dy.weights[v] * dx.weights[u];
            const float* value = in + (row * dx.input + dx.places[u]) * s.channels;
            if (is_first) {
              for (int64_t c = 0; c < s.channels; ++c) out[c] = weight * value[c];
            } else {
              for (int64_t c = 0; c < s.channels; ++c) out[c] += weight * value[c];
            }
            is_first = false;
          }
        }
    }
  });
}

}  // namespace bitlab::kernels
