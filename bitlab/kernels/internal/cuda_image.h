// Images, channels last, and the windows of a convolution over them, as a CUDA device's kernels read them; conv_geometry.h has the terms.
#pragma once

#include <cstdint>
#include <type_traits>

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

  // Where values of these coordinates lie, from those of a sample on; linear, so that it takes distances, too.
  BITLAB_HOST_DEVICE int64_t offset(const int64_t (&at)[3]) const {
    return ((at[0] * input[1] + at[1]) * input[2] + at[2]) * channels;
  }

  // An output pixel of the batch, a token: where its window begins. What is in front of the image is negative. A transposed one ends there, counted in
  // steps of which `stride` are a pixel. A thread reads it 16 bytes at a time.
  struct alignas(16) Pixel {
    int64_t at[3];
    int64_t first;  // where the value of the first tap lies in the batch; of a transposed one, the first of the sample
    int64_t sample;
  };
  BITLAB_HOST_DEVICE Pixel pixel(int64_t token) const {
    const CudaPixel of_output = cuda_pixel(token, out);
    Pixel pixel{{}, of_output.sample * sample_values(), of_output.sample};
    BITLAB_UNROLL for (int d = 0; d < 3; ++d) pixel.at[d] =
        transposed ? of_output.at[d] + padding[d] : of_output.at[d] * stride[d] - padding[d];
    if (!transposed) pixel.first += offset(pixel.at);
    return pixel;
  }

  // The value k of a patch: how far it is from the first one.
  struct Tap {
    int64_t at[3], channel, offset;
  };
  BITLAB_HOST_DEVICE Tap tap(int64_t k) const {
    const int64_t tap = cuda::divided(k, group_channels), line = cuda::divided(tap, kernel[2]),
                  plane = cuda::divided(line, kernel[1]);
    Tap result{{plane * dilation[0], (line - plane * kernel[1]) * dilation[1], (tap - line * kernel[2]) * dilation[2]},
               k - tap * group_channels,
               0};
    result.offset = result.channel + (transposed ? 0 : offset(result.at));
    return result;
  }
  // The value behind it.
  BITLAB_HOST_DEVICE void advance(Tap& tap) const {
    ++tap.channel, ++tap.offset;
    if (tap.channel < group_channels) return;
    tap.channel = 0;
    for (int d = 2; d >= 0; --d) {
      tap.at[d] += dilation[d];
      if (d == 0 || tap.at[d] < kernel[d] * dilation[d]) break;
      tap.at[d] = 0;
    }
    tap.offset = transposed ? 0 : offset(tap.at);
  }

  // Where it lies in the batch, from the first channel of the group on; -1: in the padding, or between the strides of a transposed one.
  BITLAB_HOST_DEVICE int64_t place(const Pixel& pixel, const Tap& tap) const {
    return transposed ? place_of_transposed(pixel, tap) : place_of_plain(pixel, tap);
  }
  BITLAB_HOST_DEVICE int64_t place_of_plain(const Pixel& pixel, const Tap& tap) const {
    bool is_inside = true;
    BITLAB_UNROLL for (int d = 0; d < 3; ++d) is_inside &=
        static_cast<uint64_t>(pixel.at[d] + tap.at[d]) < static_cast<uint64_t>(input[d]);
    return is_inside ? pixel.first + tap.offset : -1;
  }
  BITLAB_HOST_DEVICE int64_t place_of_transposed(const Pixel& pixel, const Tap& tap) const {
    int64_t at[3];
    for (int d = 0; d < 3; ++d) {
      const int64_t steps = pixel.at[d] - tap.at[d];
      if (steps < 0) return -1;
      at[d] = cuda::divided(steps, stride[d]);
      if (at[d] * stride[d] != steps || at[d] >= input[d]) return -1;
    }
    return pixel.first + offset(at) + tap.offset;
  }
};

// What a product reads, by token and k: rows of a matrix, or, where kGathers, the windows of an image, whose groups are batches.
template <class Element, bool kGathers>
struct CudaProductInput {
  const Element* values;
  CudaImage image;
  int64_t batch_stride, row_stride;  // of a matrix

  struct Token {
    const Element* row;
    CudaImage::Pixel pixel;
  };
  BITLAB_HOST_DEVICE Token token(int64_t batch, int64_t token) const {
    if constexpr (kGathers) return {values + batch * image.group_channels, image.pixel(token)};
    return {values + batch * batch_stride + token * row_stride, {}};
  }

  using Tap = std::conditional_t<kGathers, CudaImage::Tap, int64_t>;
  BITLAB_HOST_DEVICE Tap tap(int64_t k) const {
    if constexpr (kGathers) {
      return image.tap(k);
    } else {
      return k;
    }
  }
  BITLAB_HOST_DEVICE void advance(Tap& tap) const {
    if constexpr (kGathers) {
      image.advance(tap);
    } else {
      ++tap;
    }
  }
  BITLAB_HOST_DEVICE Element at(const Token& token, const Tap& tap) const {
    if constexpr (kGathers) {
      const int64_t place = image.place(token.pixel, tap);
      return place < 0 ? Element{0} : token.row[place];
    } else {
      return token.row[tap];
    }
  }
};

}  // namespace bitlab::kernels
