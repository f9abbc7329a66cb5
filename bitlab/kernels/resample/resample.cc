#include "bitlab/kernels/resample/resample.h"

#include <algorithm>
#include <cmath>

#include "bitlab/base/internal/half_up.h"

namespace bitlab::kernels {
namespace {

constexpr double kCubic = -0.75, kCubicAntialias = -0.5;

// The weight of a value `distance` from the place.
double cubic_weight(double distance, double a = kCubic) {
  const double d = std::fabs(distance);
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return ((d - 5) * d + 8) * d * a - 4 * a;
}

// Kernels that are 0 beyond `support`, widened where there are more values than outputs.
ResampleAxis antialias_axis(bool is_cubic, int64_t input, int64_t out) {
  const double ratio = static_cast<double>(input) / static_cast<double>(out), width = std::max(ratio, 1.0);
  const double support = (is_cubic ? 2 : 1) * width;
  ResampleAxis axis{input, std::min(input, static_cast<int64_t>(std::ceil(support)) * 2 + 1), {}, {}};
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * ratio;
    const auto first = std::max<int64_t>(half_up<int64_t>(center - support), 0),
               end = std::min(half_up<int64_t>(center + support), input);
    std::vector<double> weights;
    double sum = 0;
    for (int64_t at = first; at < end; ++at) {
      const double d = std::fabs((static_cast<double>(at) - center + 0.5) / width);
      weights.push_back(is_cubic ? (d < 2 ? cubic_weight(d, kCubicAntialias) : 0) : std::max(1 - d, 0.0));
      sum += weights.back();
    }
    for (int64_t tap = 0; tap < axis.taps; ++tap) {
      const bool is_there = first + tap < end;
      axis.places.push_back(is_there ? first + tap : -1);
      axis.weights.push_back(is_there ? static_cast<float>(weights[static_cast<size_t>(tap)] / sum) : 0);
    }
  }
  return axis;
}

}  // namespace

ResampleAxis resample_axis(ResampleMode mode, bool align_corners, int64_t input, int64_t out) {
  if (mode == ResampleMode::kLinearAntialias || mode == ResampleMode::kCubicAntialias)
    return antialias_axis(mode == ResampleMode::kCubicAntialias, input, out);
  const bool is_nearest = mode == ResampleMode::kNearest || mode == ResampleMode::kNearestExact;
  ResampleAxis axis{input, is_nearest ? 1 : mode == ResampleMode::kLinear ? 2 : 4, {}, {}};
  const auto n = static_cast<double>(input), m = static_cast<double>(out);
  for (int64_t i = 0; i < out; ++i) {
    const auto at = static_cast<double>(i);
    if (is_nearest) {
      // Between two values LibTorch's float32 ratio decides.
      const double ratio = static_cast<float>(input) / static_cast<float>(out);
      const auto exact = static_cast<int64_t>(std::floor(static_cast<float>((at + 0.5) * ratio)));
      axis.places.push_back(std::min(mode == ResampleMode::kNearestExact ? exact : i * input / out, input - 1));
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
  const ResampleAxis &dz = s.axes[0], &dy = s.axes[1], &dx = s.axes[2];
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
          if (dz.places[z] < 0 || dy.places[v] < 0) continue;
          const int64_t row = dz.places[z] * dy.input + dy.places[v];
          for (int64_t kx = 0; kx < dx.taps; ++kx) {
            const auto u = static_cast<size_t>(i * dx.taps + kx);
            if (dx.places[u] < 0) continue;
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
