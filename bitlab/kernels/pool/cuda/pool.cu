#include "bitlab/kernels/internal/cuda_image.h"
#include "bitlab/kernels/pool/cuda/pool.h"

namespace bitlab::kernels {
namespace {

struct EachPooled : CudaPool {
  BITLAB_HOST_DEVICE float divisor(const CudaWindow& wz, const CudaWindow& wy, const CudaWindow& wx) const {
    if (number != 0) return static_cast<float>(static_cast<double>(number));
    if (counts_padding)
      return static_cast<float>(static_cast<double>(wz.span) * static_cast<double>(wy.span) * static_cast<double>(wx.span));
    const int64_t taps = wz.taps * wy.taps * wx.taps;
    return static_cast<float>(static_cast<double>(taps > 1 ? taps : 1));
  }

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t pixel = cuda::divided(i, channels);
    const auto [sample, at] = cuda_pixel(pixel, out);
    const CudaWindow &wz = windows[at[0]], &wy = windows[out[0] + at[1]], &wx = windows[out[0] + out[1] + at[2]];
    const float* in = x + sample * input[0] * input[1] * input[2] * channels + i - pixel * channels;
    float value = is_max ? -__builtin_inff() : 0;
    for (int64_t kz = 0; kz < wz.taps; ++kz)
      for (int64_t ky = 0; ky < wy.taps; ++ky) {
        const int64_t row = (wz.first + kz * dilation[0]) * input[1] + wy.first + ky * dilation[1];
        for (int64_t kx = 0; kx < wx.taps; ++kx) {
          const float next = in[(row * input[2] + wx.first + kx * dilation[2]) * channels];
          if (is_max) {
            value = next > value || next != next ? next : value;
          } else {
            value = value + next;
          }
        }
      }
    y[i] = is_max ? value : value / divisor(wz, wy, wx);
  }
};

}  // namespace

const char* cuda_pool(const CudaPool& pool, void* stream) { return cuda::for_each(EachPooled{pool}, stream); }

}  // namespace bitlab::kernels
