#include "bitlab/kernels/internal/cuda_image.h"
#include "bitlab/kernels/resample/cuda/resample.h"

namespace bitlab::kernels {
namespace {

struct EachResampled : CudaResample {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t pixel = cuda::divided(i, channels);
    const auto [sample, at] = cuda_pixel(pixel, out);
    const int64_t oz = at[0] * taps[0], oy = at[1] * taps[1], ox = at[2] * taps[2];
    const float* in = x + sample * input[0] * input[1] * input[2] * channels + i - pixel * channels;
    float value = 0;
    bool is_first = true;
    for (int64_t kz = oz; kz < oz + taps[0]; ++kz)
      for (int64_t ky = oy; ky < oy + taps[1]; ++ky) {
        if (places[0][kz] < 0 || places[1][ky] < 0) continue;
        const int64_t row = places[0][kz] * input[1] + places[1][ky];
        for (int64_t kx = ox; kx < ox + taps[2]; ++kx) {
          if (places[2][kx] < 0) continue;
          const float weight = weights[0][kz] * weights[1][ky] * weights[2][kx],
                      term = weight * in[(row * input[2] + places[2][kx]) * channels];
          value = is_first ? term : value + term;
          is_first = false;
        }
      }
    y[i] = value;
  }
};

}  // namespace

const char* cuda_resample(const CudaResample& resample, void* stream) {
  return cuda::for_each(EachResampled{resample}, stream);
}

}  // namespace bitlab::kernels
