#include "bitlab/kernels/pool/pool.h"

#include <algorithm>
#include <limits>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

// The windows of an output pixel.
struct Pixel {
  const PoolWindow &z, &y, &x;
  int64_t taps() const { return z.taps * y.taps * x.taps; }
  double span() const { return static_cast<double>(z.span) * static_cast<double>(y.span) * static_cast<double>(x.span); }
};

// Calls combine(y, x) with the channel vectors of every input pixel of every window, in the order (kd, kh, kw); begin(y) and end(y, window) frame
// a window.
template <class Begin, class Combine, class End>
void pool_windows(const PoolShape& s, const float* x, float* y, ThreadPool& pool, Begin begin, Combine combine, End end) {
  const PoolAxis &dz = s.axes[0], &dy = s.axes[1], &dx = s.axes[2];
  const int64_t lines = s.out(0) * s.out(1), width = s.out(2), sample = dz.input * dy.input * dx.input * s.channels;
  if (lines * width == 0) return;
  pool.run(s.batch * lines, [&](int64_t line, int) {
    const float* in = x + line / lines * sample;
    const PoolWindow &wz = dz.windows[static_cast<size_t>(line % lines / s.out(1))],
                     &wy = dy.windows[static_cast<size_t>(line % s.out(1))];
    float* out = y + line * width * s.channels;
    for (const PoolWindow& wx : dx.windows) {
      begin(out);
      for (int64_t kz = 0; kz < wz.taps; ++kz)
        for (int64_t ky = 0; ky < wy.taps; ++ky) {
          const int64_t row = (wz.first + kz * dz.dilation) * dy.input + wy.first + ky * dy.dilation;
          for (int64_t kx = 0; kx < wx.taps; ++kx)
            combine(out, in + (row * dx.input + wx.first + kx * dx.dilation) * s.channels);
        }
      end(out, Pixel{wz, wy, wx});
      out += s.channels;
    }
  });
}

void combine(const ElementwiseRow& row, Elementwise op, const float* a, const float* b, int64_t channels, float* y) {
  row.run({.op = op, .a = a, .b = b, .b_count = channels, .y = y}, 0, channels);
}

}  // namespace

// A window may be far larger than the image.
PoolAxis sliding_windows(int64_t input, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int64_t out) {
  PoolAxis axis{input, dilation, {}};
  for (int64_t i = 0; i < out; ++i) {
    const int64_t start = i * stride - padding, begin = start < 0 ? ceil_div(-start, dilation) : 0;
    const int64_t end = start < input ? std::min(kernel, ceil_div(input - start, dilation)) : 0;
    const int64_t taps = std::max<int64_t>(end - begin, 0), span = std::min(start + kernel, input + padding) - start;
    axis.windows.push_back({start + begin * dilation, taps, std::max<int64_t>(span, 1)});
  }
  return axis;
}

PoolAxis adaptive_windows(int64_t input, int64_t out) {
  PoolAxis axis{input, 1, {}};
  for (int64_t i = 0; i < out; ++i) {
    const int64_t begin = i * input / out, count = ceil_div((i + 1) * input, out) - begin;
    axis.windows.push_back({begin, count, count});
  }
  return axis;
}

void max_pool(const ElementwiseRow& row, const PoolShape& s, const float* x, float* y, ThreadPool& pool) {
  const int64_t channels = s.channels;
  pool_windows(
      s, x, y, pool, [=](float* out) { std::fill_n(out, channels, -std::numeric_limits<float>::infinity()); },
      [=, &row](float* out, const float* in) { combine(row, Elementwise::maximum, in, out, channels, out); },
      [](float*, const Pixel&) {});
}

void avg_pool(const ElementwiseRow& row, const PoolShape& s, PoolDivisor divisor, const float* x, float* y,
              ThreadPool& pool) {
  const int64_t channels = s.channels;
  pool_windows(
      s, x, y, pool, [=](float* out) { std::fill_n(out, channels, 0.0F); },
      [=, &row](float* out, const float* in) { combine(row, Elementwise::add, out, in, channels, out); },
      [=](float* out, const Pixel& window) {
        const double taps = static_cast<double>(std::max<int64_t>(window.taps(), 1));
        const auto by = static_cast<float>(divisor.number != 0      ? static_cast<double>(divisor.number)
                                           : divisor.counts_padding ? window.span()
                                                                    : taps);
        for (int64_t c = 0; c < channels; ++c) out[c] /= by;
      });
}

}  // namespace bitlab::kernels
