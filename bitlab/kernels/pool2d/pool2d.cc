#include "bitlab/kernels/pool2d/pool2d.h"

#include <limits>

namespace bitlab::kernels {
namespace {

// Calls combine(y, x) with the channel vectors of every input pixel of every window; begin(y) and end(y) frame a window.
template <class Begin, class Combine, class End>
void pool_windows(const Conv2dGeometry& g, const float* x, float* y, ThreadPool& pool, Begin begin, Combine combine,
                  End end) {
  const int64_t out_h = g.out_h(), out_w = g.out_w();
  pool.run(g.batch * out_h, [&](int64_t line, int) {
    const float* sample = x + line / out_h * g.sample_values();
    const int64_t y0 = line % out_h * g.stride_h - g.padding_h;
    for (int64_t ox = 0; ox < out_w; ++ox) {
      float* out = y + (line * out_w + ox) * g.channels;
      const int64_t x0 = ox * g.stride_w - g.padding_w;
      begin(out);
      for (int64_t ky = 0; ky < g.kernel_h; ++ky)
        for (int64_t kx = 0; kx < g.kernel_w; ++kx) {
          const int64_t iy = y0 + ky * g.dilation_h, ix = x0 + kx * g.dilation_w;
          if (iy < 0 || iy >= g.height || ix < 0 || ix >= g.width) continue;
          combine(out, sample + (iy * g.width + ix) * g.channels);
        }
      end(out);
    }
  });
}

}  // namespace

void max_pool2d(const Conv2dGeometry& g, const float* x, float* y, ThreadPool& pool) {
  const int64_t channels = g.channels;
  pool_windows(
      g, x, y, pool, [=](float* out) { std::fill_n(out, channels, -std::numeric_limits<float>::infinity()); },
      [=](float* out, const float* in) {
        for (int64_t c = 0; c < channels; ++c) out[c] = (in[c] > out[c] || in[c] != in[c]) ? in[c] : out[c];
      },
      [](float*) {});
}

void avg_pool2d(const Conv2dGeometry& g, const float* x, float* y, ThreadPool& pool) {
  const int64_t channels = g.channels;
  const auto size = static_cast<float>(g.kernel_h * g.kernel_w);
  pool_windows(
      g, x, y, pool, [=](float* out) { std::fill_n(out, channels, 0.0F); },
      [=](float* out, const float* in) {
        for (int64_t c = 0; c < channels; ++c) out[c] += in[c];
      },
      [=](float* out) {
        for (int64_t c = 0; c < channels; ++c) out[c] /= size;
      });
}

}  // namespace bitlab::kernels
