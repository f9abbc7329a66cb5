#include "bitlab/kernels/pool/pool.h"

#include <limits>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

// The taps of a window along dimension d that lie in the image. A window may be far larger than that.
struct Taps {
  int64_t begin, end;

  Taps(const ConvGeometry& g, size_t d, int64_t position) {
    const int64_t first = position * g.stride[d] - g.padding[d];
    begin = first < 0 ? ceil_div(-first, g.dilation[d]) : 0;
    end = first < g.input[d] ? std::min(g.kernel[d], ceil_div(g.input[d] - first, g.dilation[d])) : 0;
  }
};

// Calls f(pixel) for every input pixel of a window, in the order (kd, kh, kw).
template <class F>
void for_each_pixel(const OutputPosition& at, const F& f) {
  const ConvGeometry& g = at.g;
  const Taps z(g, 0, at.z), y(g, 1, at.y), x(g, 2, at.x);
  for (int64_t kz = z.begin; kz < z.end; ++kz)
    for (int64_t ky = y.begin; ky < y.end; ++ky)
      for (int64_t kx = x.begin; kx < x.end; ++kx)
        f((g.input_at(0, at.z, kz) * g.input[1] + g.input_at(1, at.y, ky)) * g.input[2] + g.input_at(2, at.x, kx));
}

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
      for_each_pixel(at, [&](int64_t pixel) { combine(out, sample + pixel * g.channels); });
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
