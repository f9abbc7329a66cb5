#include "bitlab/kernels/rotary/cuda/rotary.h"

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/rotary/internal/rotation.h"

namespace bitlab::kernels {
namespace {

// A thread takes a pair of a token in all of `outer`, whose angle it computes once.
struct EachPair : CudaRotary {
  int64_t count;
  explicit EachPair(const CudaRotary& rotary) : CudaRotary(rotary), count(rotary.tokens * (rotary.depth / 2)) {}

  BITLAB_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t half = depth / 2, token = cuda::divided(index, half), i = index - token * half, position = positions[token];
    if (position < 0 || position > most) {
      *failed = 1;
      return;
    }
    const Rotation r = rotation(static_cast<double>(position) * frequencies[i]);
    for (int64_t o = 0; o < outer; ++o) {
      const int64_t row = (o * tokens + token) * depth;
      const float a = x[row + i], b = x[row + half + i];
      y[row + i] = a * r.cosine - b * r.sine;
      y[row + half + i] = b * r.cosine + a * r.sine;
    }
  }
};

}  // namespace

const char* cuda_rotary(const CudaRotary& rotary, void* stream) { return cuda::for_each(EachPair(rotary), stream); }

}  // namespace bitlab::kernels
