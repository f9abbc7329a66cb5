// Sizes of a two-dimensional window operation (convolution, pooling) and the gathering of its patches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace bitlab::kernels {

struct Conv2dGeometry {
  int64_t batch, channels, height, width;  // input, stored [batch, height, width, channels] (channels last)
  int64_t kernel_h, kernel_w;
  int64_t stride_h = 1, stride_w = 1;
  int64_t padding_h = 0, padding_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;

  int64_t out_h() const { return (height + 2 * padding_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_w() const { return (width + 2 * padding_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
  int64_t positions() const { return out_h() * out_w(); }              // output pixels a sample
  int64_t depth() const { return kernel_h * kernel_w * channels; }     // K, in the order (kh, kw, c)
  int64_t sample_values() const { return height * width * channels; }  // input values a sample
};

// Copies the patches of the output pixels [begin, end) of one sample into rows of `stride` values: the patch in the order
// (kh, kw, c), zeros for what lies outside of the image, zeros from depth() to stride.
template <class T>
void gather_patches(const Conv2dGeometry& g, const T* sample, int64_t begin, int64_t end, T* rows, int64_t stride) {
  const auto tap_bytes = static_cast<size_t>(g.channels) * sizeof(T);
  for (int64_t position = begin; position < end; ++position, rows += stride) {
    const int64_t y0 = position / g.out_w() * g.stride_h - g.padding_h;
    const int64_t x0 = position % g.out_w() * g.stride_w - g.padding_w;
    // The taps of a patch row lie side by side in the image unless it is dilated or leaves the image.
    const bool whole_rows = g.dilation_w == 1 && x0 >= 0 && x0 + g.kernel_w <= g.width;
    T* out = rows;
    for (int64_t ky = 0; ky < g.kernel_h; ++ky) {
      const int64_t y = y0 + ky * g.dilation_h;
      const bool inside = y >= 0 && y < g.height;
      const T* line = sample + y * g.width * g.channels;
      if (inside && whole_rows) {
        std::memcpy(out, line + x0 * g.channels, static_cast<size_t>(g.kernel_w) * tap_bytes);
        out += g.kernel_w * g.channels;
        continue;
      }
      for (int64_t kx = 0; kx < g.kernel_w; ++kx, out += g.channels) {
        const int64_t x = x0 + kx * g.dilation_w;
        if (inside && x >= 0 && x < g.width) {
          std::memcpy(out, line + x * g.channels, tap_bytes);
        } else {
          std::memset(out, 0, tap_bytes);
        }
      }
    }
    std::fill(out, rows + stride, T{0});
  }
}

}  // namespace bitlab::kernels
