#include "bitlab/kernels/grid_sample/cuda/grid_sample.h"

#include <cmath>

#include "bitlab/kernels/internal/cuda_launch.h"

namespace bitlab::kernels {
namespace {

struct Taps {
  int64_t places[2];  // -1: none
  float weights[2];
};

// A thread takes a place of all channels.
struct EachPlace : CudaGridSample {
  static BITLAB_HOST_DEVICE float reflected(float place, float least, float most) {
    const float span = most - least;
    if (span <= 0) return 0;
    const float distance = ::fabsf(place - least), rest = ::fmodf(distance, span);
    const bool is_turned = ::fmodf(::floorf(distance / span), 2.0F) != 0;
    return is_turned ? most - rest : least + rest;
  }
  BITLAB_HOST_DEVICE Taps taps_of(float coordinate, int64_t size) const {
    const auto n = static_cast<float>(size);
    float place = align_corners ? (coordinate + 1) * ((n - 1) / 2) : (coordinate + 1) * (n / 2) - 0.5F;
    if (reflects) place = align_corners ? reflected(place, 0, n - 1) : reflected(place, -0.5F, n - 0.5F);
    if (moves) place = place > 0 ? (place < n - 1 ? place : n - 1) : 0;  // of NaN, too
    place = place > -2 ? (place < n + 1 ? place : n + 1) : -2;
    const auto inside = [size](int64_t at) { return at >= 0 && at < size ? at : int64_t{-1}; };
    if (is_nearest) return {{inside(static_cast<int64_t>(::nearbyintf(place))), -1}, {1, 0}};
    const float whole = ::floorf(place), part = place - whole;
    const auto first = static_cast<int64_t>(whole);
    return {{inside(first), inside(first + 1)}, {1 - part, part}};
  }
  BITLAB_HOST_DEVICE void operator()(int64_t task) const {
    const Taps across = taps_of(grid[2 * task], width), down = taps_of(grid[2 * task + 1], height);
    const int64_t sample = cuda::divided(task, places), at = task - sample * places;
    for (int64_t c = 0; c < channels; ++c) {
      const float* values = x + (sample * channels + c) * height * width;
      float sum = 0;
      for (int v = 0; v < 2; ++v)
        for (int u = 0; u < 2; ++u)
          if (across.places[u] >= 0 && down.places[v] >= 0)
            sum = sum + values[down.places[v] * width + across.places[u]] * (across.weights[u] * down.weights[v]);
      y[(sample * channels + c) * places + at] = sum;
    }
  }
};

}  // namespace

const char* cuda_grid_sample(const CudaGridSample& layer, void* stream) { return cuda::for_each(EachPlace{layer}, stream); }

}  // namespace bitlab::kernels
