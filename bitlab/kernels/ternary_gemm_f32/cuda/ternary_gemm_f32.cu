#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.h"

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/reduction/cuda/lanes.h"
#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"

namespace bitlab::kernels {
namespace {

// Sixteen threads take a result: the partial sums.
struct WeightOnly {
  static constexpr int kThreads = 128, kResults = kThreads / cuda::kSumLanes;
  using Args = CudaTernaryF32;
  struct Shared {
    float lanes[kThreads];
  };
  using Block = cuda::Block<kThreads>;

  static BITLAB_HOST_DEVICE float weight(const Args& args, int64_t row, int64_t k) {
    if (args.bytes) return static_cast<float>(static_cast<int8_t>(args.p.weights[row * args.p.depth + k]));
    return static_cast<float>(mma_weight(args.p.weights, row, k, args.p.depth));
  }

  static BITLAB_HOST_DEVICE float partial_sum(const Args& args, int64_t token, int64_t row, int lane) {
    float sum = 0;
    const CudaImage::Pixel pixel = args.gathers ? args.image.pixel(token) : CudaImage::Pixel{};
    const int64_t channel = args.gathers ? row / (args.p.rows / args.groups) * args.image.group_channels : 0;
    for (int64_t k = lane; k < args.p.depth; k += cuda::kSumLanes) {
      const int64_t place = args.gathers ? args.image.place(pixel, args.image.tap(k)) : token * args.x_stride + k;
      const float x = place < 0 ? 0 : args.x[place + channel];
      sum = sum + x * weight(args, row, k);
    }
    return sum;
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const Args& args, Shared& shared) {
    const int64_t count = args.tokens * args.p.rows;
    block.each([&](int thread) {
      const int64_t i = block.x * kResults + thread / cuda::kSumLanes, token = cuda::divided(i, args.p.rows);
      shared.lanes[thread] = i < count ? partial_sum(args, token, i - token * args.p.rows, thread % cuda::kSumLanes) : 0;
    });
    cuda::tree_sum(block, shared.lanes);
    block.each([&](int thread) {
      const int64_t i = block.x * kResults + thread / cuda::kSumLanes, token = cuda::divided(i, args.p.rows);
      if (i >= count || thread % cuda::kSumLanes != 0) return;
      const int64_t row = i - token * args.p.rows;
      const RowConstants constants = RowConstants::of(args.p, row);
      finish(args.p, constants, shared.lanes[thread] * constants.scale, token, row);
    });
  }
};

}  // namespace

const char* cuda_ternary_gemm_f32(const CudaTernaryF32& product, void* stream) {
  return cuda::launch<WeightOnly>({cuda::blocks_for(product.tokens * product.p.rows, WeightOnly::kResults)}, product, stream);
}

}  // namespace bitlab::kernels
