// Images, channels last, and the windows of a convolution over them, as a CUDA device's kernels read them; conv_geometry.h has the terms.
#pragma once

#include <cstdint>

#include "bitlab/kernels/internal/cuda_launch.h"

namespace bitlab::kernels {

// A pixel of images of these sizes, which lie one behind the other.
struct CudaPixel {
  int64_t sample, at[3];
};
BITLAB_HOST_DEVICE CudaPixel cuda_pixel(int64_t number, const int64_t (&sizes)[3]) {
  const int64_t line = cuda::divided(number, sizes[2]), plane = cuda::divided(line, sizes[1]),
                sample = cuda::divided(plane, sizes[0]);
  return {sample, {plane - sample * sizes[0], line - plane * sizes[1], number - line * sizes[2]}};
}

struct CudaImage {
  int64_t channels = 1, group_channels = 1;
  int64_t input[3], kernel[3], stride[3], padding[3], dilation[3], out[3];
  bool transposed = false;

  // From a ConvGeometry.
  template <class Geometry>
  static CudaImage of(const Geometry& g) {
    CudaImage image{};
    image.channels = g.channels, image.group_channels = g.group_channels(), image.transposed = g.transposed;
    for (size_t d = 0; d < 3; ++d) {
      image.input[d] = g.input[d], image.kernel[d] = g.kernel[d], image.stride[d] = g.stride[d];
      image.padding[d] = g.padding[d], image.dilation[d] = g.dilation[d], image.out[d] = g.out(d);
    }
    return image;
  }

  BITLAB_HOST_DEVICE int64_t positions() const { return out[0] * out[1] * out[2]; }
  BITLAB_HOST_DEVICE int64_t sample_values() const { return input[0] * input[1] * input[2] * channels; }

  // An output pixel of the batch, a token.
  using Pixel = CudaPixel;
  BITLAB_HOST_DEVICE Pixel pixel(int64_t token) const { return cuda_pixel(token, out); }
  BITLAB_HOST_DEVICE int64_t input_at(int d, int64_t o, int64_t tap) const {
    int64_t i = o * stride[d] - padding[d] + tap * dilation[d];
    if (transposed) {
      const int64_t spread = o + padding[d] - tap * dilation[d];
      if (spread < 0 || spread % stride[d] != 0) return -1;
      i = cuda::divided(spread, stride[d]);
    }
    return i >= 0 && i < input[d] ? i : -1;
  }
  // The value k of a patch.
  struct Tap {
    int64_t at[3], channel;
  };
  BITLAB_HOST_DEVICE Tap tap(int64_t k) const {
    const int64_t tap = cuda::divided(k, group_channels), line = cuda::divided(tap, kernel[2]),
                  plane = cuda::divided(line, kernel[1]);
    return {{plane, line - plane * kernel[1], tap - line * kernel[2]}, k - tap * group_channels};
  }
  // Where it lies in the batch, from the first channel of the group on; -1: in the padding.
  BITLAB_HOST_DEVICE int64_t place(const Pixel& pixel, const Tap& tap) const {
    const int64_t z = input_at(0, pixel.at[0], tap.at[0]), y = input_at(1, pixel.at[1], tap.at[1]),
                  x = input_at(2, pixel.at[2], tap.at[2]);
    if (z < 0 || y < 0 || x < 0) return -1;
    return (((pixel.sample * input[0] + z) * input[1] + y) * input[2] + x) * channels + tap.channel;
  }
  BITLAB_HOST_DEVICE int64_t place(const Pixel& pixel, int64_t k) const { return place(pixel, tap(k)); }
};

// What a product reads, by token and k: rows of a matrix, or, where kGathers, the windows of an image, whose groups are batches.
template <class Element, bool kGathers>
struct CudaProductInput {
  const Element* values;
  CudaImage image;
  int64_t batch_stride, row_stride;  // of a matrix

  struct Token {
    const Element* row;
    CudaPixel pixel;
  };
  BITLAB_HOST_DEVICE Token token(int64_t batch, int64_t token) const {
    if constexpr (kGathers) return {values + batch * image.group_channels, image.pixel(token)};
    return {values + batch * batch_stride + token * row_stride, {}};
  }
  BITLAB_HOST_DEVICE Element at(const Token& token, int64_t k) const {
    if constexpr (kGathers) {
      const int64_t place = image.place(token.pixel, k);
      return place < 0 ? Element{0} : token.row[place];
    }
    return token.row[k];
  }
};

}  // namespace bitlab::kernels
