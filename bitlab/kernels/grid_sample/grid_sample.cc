#include "bitlab/kernels/grid_sample/grid_sample.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace bitlab::kernels {
namespace {

// Mirrored at both ends until it lies between them.
float reflected(float place, float least, float most) {
  const float span = most - least;
  if (span <= 0) return 0;
  const float distance = std::fabs(place - least), rest = std::fmod(distance, span);
  const bool is_turned = std::fmod(std::floor(distance / span), 2.0F) != 0;
  return is_turned ? most - rest : least + rest;
}

// What a coordinate reads along a dimension: two places and their weights; -1: none.
struct Taps {
  std::array<int64_t, 2> places{-1, -1};
  std::array<float, 2> weights{0, 0};
};

Taps taps_of(const GridSample& s, float coordinate, int64_t size) {
  const auto n = static_cast<float>(size);
  float place = s.align_corners ? (coordinate + 1) * ((n - 1) / 2) : (coordinate + 1) * (n / 2) - 0.5F;
  if (s.padding == GridPadding::kReflection)
    place = s.align_corners ? reflected(place, 0, n - 1) : reflected(place, -0.5F, n - 0.5F);
  if (s.padding != GridPadding::kZeros) place = place > 0 ? std::min(place, n - 1) : 0;  // of NaN, too
  place = place > -2 ? std::min(place, n + 1) : -2;                                      // far outside is outside
  const auto inside = [&](int64_t at) { return at >= 0 && at < size ? at : -1; };
  if (s.is_nearest) return {{inside(static_cast<int64_t>(std::nearbyint(place))), -1}, {1, 0}};
  const float whole = std::floor(place), part = place - whole;
  const auto first = static_cast<int64_t>(whole);
  return {{inside(first), inside(first + 1)}, {1 - part, part}};
}

}  // namespace

void grid_sample(const GridSample& s, const float* x, const float* grid, float* y, ThreadPool& pool) {
  const int64_t image = s.height * s.width;
  pool.run(s.batch * s.places, [&](int64_t task, int) {
    const Taps across = taps_of(s, grid[2 * task], s.width), down = taps_of(s, grid[2 * task + 1], s.height);
    const int64_t sample = task / s.places;
    for (int64_t c = 0; c < s.channels; ++c) {
      const float* values = x + (sample * s.channels + c) * image;
      float sum = 0;
      for (size_t v = 0; v < 2; ++v)
        for (size_t u = 0; u < 2; ++u)
          if (across.places[u] >= 0 && down.places[v] >= 0)
            sum += values[down.places[v] * s.width + across.places[u]] * (across.weights[u] * down.weights[v]);
      y[(sample * s.channels + c) * s.places + task % s.places] = sum;
    }
  });
}

}  // namespace bitlab::kernels
