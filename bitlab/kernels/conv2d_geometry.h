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

// memcpy for the short runs of a patch, where a call would cost more than the copy.
inline void copy_short(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  if (bytes > 32) {
    std::memcpy(out, in, bytes);
  } else if (bytes >= 16) {  // two copies that may overlap
    std::memcpy(out, in, 16);
    std::memcpy(out + bytes - 16, in + bytes - 16, 16);
  } else if (bytes >= 8) {
    uint64_t first, last;
    std::memcpy(&first, in, 8);
    std::memcpy(&last, in + bytes - 8, 8);
    std::memcpy(out, &first, 8);
    std::memcpy(out + bytes - 8, &last, 8);
  } else if (bytes >= 4) {
    uint32_t first, last;
    std::memcpy(&first, in, 4);
    std::memcpy(&last, in + bytes - 4, 4);
    std::memcpy(out, &first, 4);
    std::memcpy(out + bytes - 4, &last, 4);
  } else {
    for (size_t i = 0; i < bytes; ++i) out[i] = in[i];
  }
}

// Copies the patches of the output pixels [begin, end) of one sample into rows of `stride` values: the patch in the order
// (kh, kw, c), zeros for what lies outside of the image, zeros from depth() to stride.
template <class T>
void gather_patches(const Conv2dGeometry& g, const T* sample, int64_t begin, int64_t end, T* rows, int64_t stride) {
  const auto tap_bytes = static_cast<size_t>(g.channels) * sizeof(T);
  const int64_t out_w = g.out_w();
  int64_t out_y = begin / out_w, out_x = begin % out_w;
  for (int64_t position = begin; position < end; ++position, rows += stride) {
    const int64_t y0 = out_y * g.stride_h - g.padding_h, x0 = out_x * g.stride_w - g.padding_w;
    if (++out_x == out_w) {
      out_x = 0;
      ++out_y;
    }
    // The taps of a patch row lie side by side in the image unless it is dilated or leaves the image.
    const bool whole_rows = g.dilation_w == 1 && x0 >= 0 && x0 + g.kernel_w <= g.width;
    T* out = rows;
    for (int64_t ky = 0; ky < g.kernel_h; ++ky) {
      const int64_t y = y0 + ky * g.dilation_h;
      const bool inside = y >= 0 && y < g.height;
      const T* line = sample + y * g.width * g.channels;
      if (inside && whole_rows) {
        copy_short(out, line + x0 * g.channels, static_cast<size_t>(g.kernel_w) * tap_bytes);
        out += g.kernel_w * g.channels;
        continue;
      }
      for (int64_t kx = 0; kx < g.kernel_w; ++kx, out += g.channels) {
        const int64_t x = x0 + kx * g.dilation_w;
        if (inside && x >= 0 && x < g.width) {
          copy_short(out, line + x * g.channels, tap_bytes);
        } else {
          std::memset(out, 0, tap_bytes);
        }
      }
    }
    std::fill(out, rows + stride, T{0});
  }
}

}  // namespace bitlab::kernels
