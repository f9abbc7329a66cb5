// The sums are those of ternary/sum.h: blocks of 4096 values in 16 lanes, then a tree over blocks, in float64.
#include "bitlab/ternary/cuda/encode.h"

#include "bitlab/base/internal/cuda_error.h"

namespace bitlab::ternary {
namespace {

constexpr int64_t kSumBlock = 4096;
constexpr int kSumLanes = 16, kBlocksAtOnce = 4, kThreads = kSumLanes * kBlocksAtOnce;
constexpr float kScaleEpsilon = 1e-5F;

// 16 threads take a block of a part.
__global__ __launch_bounds__(kThreads) void sum_blocks(const float* w, int64_t parts, int64_t length, int64_t blocks, double* sums) {
  const int64_t block = int64_t{blockIdx.x} * kBlocksAtOnce + threadIdx.x / kSumLanes;
  const unsigned lane = threadIdx.x % kSumLanes;
  double sum = 0;
  if (block < parts * blocks) {
    const int64_t begin = block % blocks * kSumBlock, left = length - begin;
    const float* from = w + block / blocks * length + begin;
    const int64_t count = left < kSumBlock ? left : kSumBlock;
#pragma unroll 8
    for (int64_t i = lane; i < count; i += kSumLanes) sum = sum + static_cast<double>(fabsf(from[i]));
  }
#pragma unroll
  for (int width = kSumLanes / 2; width > 0; width /= 2) sum = sum + __shfl_down_sync(0xFFFFFFFFU, sum, width, kSumLanes);
  if (lane == 0 && block < parts * blocks) sums[block] = sum;
}

// A block takes a part: the tree, level by level between two halves of the scratch, then the scale.
__global__ void scale_of_sums(double* sums, int64_t parts, int64_t length, int64_t blocks, float* scale, float* threshold) {
  double *from = sums + blockIdx.x * blocks, *to = from + parts * blocks;
  for (int64_t count = blocks; count > 1; count = (count + 1) / 2) {
    for (int64_t i = threadIdx.x; i < (count + 1) / 2; i += blockDim.x) to[i] = 2 * i + 1 < count ? from[2 * i] + from[2 * i + 1] : from[2 * i];
    __syncthreads();
    double* other = from;
    from = to, to = other;
  }
  if (threadIdx.x != 0) return;
  const auto mean = static_cast<float>(from[0] / static_cast<double>(length));
  const float s = mean < kScaleEpsilon ? kScaleEpsilon : isfinite(mean) ? mean : __uint_as_float(0x7FC00000U);
  scale[blockIdx.x] = s;
  threshold[blockIdx.x] = s * 0.5F;
}

__global__ void codes(const float* w, int64_t parts, int64_t length, const float* threshold, int8_t* t) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= parts * length) return;
  const float d = threshold[parts == 1 ? 0 : i / length];
  t[i] = static_cast<int8_t>((w[i] > d) - (w[i] < -d));
}

}  // namespace

const char* cuda_encode_absmean(const float* w, int64_t parts, int64_t length, int8_t* t, float* scale, float* threshold, double* scratch,
                                void* stream_) {
  if (parts == 0 || length == 0) return nullptr;
  const auto stream = static_cast<cudaStream_t>(stream_);
  const int64_t blocks = (length + kSumBlock - 1) / kSumBlock, grid = (parts * blocks + kBlocksAtOnce - 1) / kBlocksAtOnce;
  constexpr int kCodeThreads = 256;
  const int64_t code_grid = (parts * length + kCodeThreads - 1) / kCodeThreads;
  if (grid > INT32_MAX || code_grid > INT32_MAX) return "fewer than 2^39 weights";
  sum_blocks<<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(w, parts, length, blocks, scratch);
  scale_of_sums<<<static_cast<unsigned>(parts), blocks > 32 ? 256 : 32, 0, stream>>>(scratch, parts, length, blocks, scale, threshold);
  codes<<<static_cast<unsigned>(code_grid), kCodeThreads, 0, stream>>>(w, parts, length, threshold, t);
  return cuda::launch_problem();
}

}  // namespace bitlab::ternary
