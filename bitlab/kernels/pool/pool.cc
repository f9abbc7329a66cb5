#include "bitlab/kernels/pool/pool.h"

#include <limits>

namespace bitlab::kernels {
namespace {

// Calls combine(y, x) with the channel vectors of every input pixel of every window; begin(y) and end(y) frame a window.
template <class Begin, class Combine, class End>
void pool_windows(const ConvGeometry& g, const float* x, float* y, ThreadPool& pool, Begin begin, Combine combine, End end) {
  if (g.positions() == 0) return;
  const int64_t lines = g.out(0) * g.out(1), width = g.out(2);
  pool.run(g.batch * lines, [&](int64_t line, int) {
    const float* sample = x + line / lines * g.sample_values();
    OutputPosition at(g, line % lines * width);
    for (int64_t i = 0; i < width; ++i, at.advance()) {
      float* out = y + (line * width + i) * g.channels;
      begin(out);
      for_each_tap(at, [&](int64_t, int64_t pixel) {
        if (pixel >= 0) combine(out, sample + pixel * g.channels);
      });
      end(out);
    }
  });
}

}  // namespace

void max_pool(const ConvGeometry& g, const float* x, float* y, ThreadPool& pool) {
  const int64_t channels = g.channels;
  pool_windows(
      g, x, y, pool, [=](float* out) { std::fill_n(out, channels, -std::numeric_limits<float>::infinity()); },
      [=](float* out, const float* in) {
        for (int64_t c = 0; c < channels; ++c) out[c] = (in[c] > out[c] || in[c] != in[c]) ? in[c] : out[c];
      },
      [](float*) {});
}

void avg_pool(const ConvGeometry& g, const float* x, float* y, ThreadPool& pool) {
  const int64_t channels = g.channels;
  const auto size = static_cast<float>(g.taps());
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
