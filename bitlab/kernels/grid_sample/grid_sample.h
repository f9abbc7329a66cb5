// Images at the places of a grid, as torch.nn.functional.grid_sample reads them ("bounded"). Source: spatial transformers (Jaderberg et al. 2015,
// arXiv:1506.02025).
//
//   x [batch, channels, height, width], grid [batch, places, 2] of (x, y) -> y [batch, channels, places]
//   A coordinate g from -1 to 1 of n values is the place (g + 1) n / 2 - 0.5, or with align_corners (g + 1) (n - 1) / 2. What lies outside is 0, or the place
//   is moved to the nearest one inside (border), or mirrored at the edges (reflection): at -0.5 and n - 0.5, or with align_corners at 0 and n - 1.
//   linear: the four values around the place, by their distances. nearest: the one at the place rounded to the nearest, halves to even.
//   A coordinate that is NaN lies outside; where places are moved, at 0.
#pragma once

#include <cstdint>

#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

enum class GridPadding { kZeros, kBorder, kReflection };

struct GridSample {
  int64_t batch = 1, channels = 1, height = 1, width = 1, places = 1;
  bool is_nearest = false, align_corners = false;
  GridPadding padding = GridPadding::kZeros;
};

void grid_sample(const GridSample& layer, const float* x, const float* grid, float* y, ThreadPool& pool);

}  // namespace bitlab::kernels
