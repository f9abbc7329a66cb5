// The sums are those of ternary/sum.h: blocks of 4096 values in 16 lanes, then a tree over blocks, in float64.
#include "bitlab/kernels/encode/cuda/encode.h"

#include <cmath>
#include <limits>

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/reduction/cuda/lanes.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kCudaSumBlock = 4096;
constexpr float kLeastScale = 1e-5F;

struct Parts {
  const float* w;
  int64_t parts, length, blocks;  // blocks: of sums, a part
  int8_t* t;
  float *scale, *threshold;
  double* sums;  // two levels of the tree
};

// 16 threads take a block of a part.
struct SumBlocks {
  static constexpr int kAtOnce = 4, kThreads = cuda::kSumLanes * kAtOnce;
  using Args = Parts;
  struct Shared {
    double lanes[kThreads];
  };
  static BITLAB_HOST_DEVICE void run(const cuda::Block<kThreads>& block, const Parts& p, Shared& shared) {
    block.each([&](int thread) {
      const int64_t own = block.x * kAtOnce + thread / cuda::kSumLanes;
      double sum = 0;
      if (own < p.parts * p.blocks) {
        const int64_t of_part = cuda::divided(own, p.blocks), begin = (own - of_part * p.blocks) * kCudaSumBlock,
                      left = p.length - begin;
        const float* from = p.w + of_part * p.length + begin;
        const int64_t count = left < kCudaSumBlock ? left : kCudaSumBlock;
        BITLAB_UNROLL_BY(32) for (int64_t i = thread % cuda::kSumLanes; i < count; i += cuda::kSumLanes)
          sum = sum + static_cast<double>(fabsf(from[i]));
      }
      shared.lanes[thread] = sum;
    });
    cuda::tree_sum(block, shared.lanes);
    block.each([&](int thread) {
      const int64_t own = block.x * kAtOnce + thread / cuda::kSumLanes;
      if (thread % cuda::kSumLanes == 0 && own < p.parts * p.blocks) p.sums[own] = shared.lanes[thread];
    });
  }
};

// A block takes a part: the tree, level by level between two halves of the scratch, and of shared memory where they fit, then the scale.
template <int kBlock>
struct ScaleOfSums {
  static constexpr int kThreads = kBlock, kFit = 4 * kBlock;
  using Args = Parts;
  struct Shared {
    double level[2][kFit];
  };
  static BITLAB_HOST_DEVICE void run(const cuda::Block<kThreads>& block, const Parts& p, Shared& shared) {
    double *from = p.sums + block.x * p.blocks, *to = from + p.parts * p.blocks;
    for (int64_t count = p.blocks; count > 1; count = (count + 1) / 2) {
      const int64_t half = (count + 1) / 2;
      double* next = half > kFit ? to : shared.level[from == shared.level[0] ? 1 : 0];
      block.each([&](int thread) {
        for (int64_t i = thread; i < half; i += kThreads) next[i] = 2 * i + 1 < count ? from[2 * i] + from[2 * i + 1] : from[2 * i];
      });
      block.sync();
      if (half > kFit) to = from;
      from = next;
    }
    block.each([&](int thread) {
      if (thread != 0) return;
      const auto mean = static_cast<float>(from[0] / static_cast<double>(p.length));
      const bool is_finite = mean <= std::numeric_limits<float>::max();
      const float s = mean < kLeastScale ? kLeastScale : is_finite ? mean : std::numeric_limits<float>::quiet_NaN();
      p.scale[block.x] = s;
      p.threshold[block.x] = s * 0.5F;
    });
  }
};

// A thread takes four weights of a part.
struct EachCode : Parts {
  static constexpr int kEach = 4;
  int64_t words, count;
  bool fours;
  explicit EachCode(const Parts& p)
      : Parts(p),
        words((length + kEach - 1) / kEach),
        count(parts * words),
        fours(cuda::are_fours(w, length) && cuda::are_fours(t, length)) {}
  static BITLAB_HOST_DEVICE int8_t code(float value, float d) { return static_cast<int8_t>((value > d) - (value < -d)); }

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t part = cuda::divided(i, words), begin = (i - part * words) * kEach, at = part * length + begin;
    const float d = threshold[part];
    if (fours) {
      const auto values = cuda::read_four(w + at);
      cuda::Four<int8_t> codes;
      BITLAB_UNROLL for (int j = 0; j < kEach; ++j) codes.at[j] = code(values.at[j], d);
      cuda::write_four(t + at, codes);
      return;
    }
    BITLAB_UNROLL for (int j = 0; j < kEach; ++j) if (begin + j < length) t[at + j] = code(w[at + j], d);
  }
};

}  // namespace

const char* cuda_encode_absmean(const float* w, int64_t parts, int64_t length, int8_t* t, float* scale, float* threshold, double* scratch,
                                void* stream) {
  if (parts == 0 || length == 0) return nullptr;
  const Parts p{w, parts, length, cuda::blocks_for(length, kCudaSumBlock), t, scale, threshold, scratch};
  if (const char* wrong = cuda::launch<SumBlocks>({cuda::blocks_for(parts * p.blocks, SumBlocks::kAtOnce)}, p, stream)) return wrong;
  const char* wrong = p.blocks > 32 ? cuda::launch<ScaleOfSums<256>>({parts}, p, stream) : cuda::launch<ScaleOfSums<32>>({parts}, p, stream);
  return wrong != nullptr ? wrong : cuda::for_each(EachCode(p), stream);
}

}  // namespace bitlab::kernels
