#include "bitlab/kernels/attention/cuda/attention.h"

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/internal/float_math.h"
#include "bitlab/kernels/reduction/cuda/lanes.h"

namespace bitlab::kernels {
namespace {

// A block takes one query of a head after another.
struct Attend {
  static constexpr int kThreads = 128;
  struct Args {
    CudaAttention p;
    int64_t tasks, blocks;
  };
  struct Shared {
    float lanes[kThreads];
  };
  using Block = cuda::Block<kThreads>;

  struct Query {
    int64_t sample, head, query, seen;
    const float *q, *k, *v;
    float *y, *scores;

    BITLAB_HOST_DEVICE Query(const CudaAttention& p, int64_t task, int64_t block) {
      const int64_t of_head = cuda::divided(task, p.queries);
      query = task - of_head * p.queries;
      sample = cuda::divided(of_head, p.heads), head = of_head - sample * p.heads;
      const int64_t group = sample * p.groups + head / (p.heads / p.groups);
      const int64_t first = p.position == nullptr ? 0 : *p.position, keys = p.position == nullptr ? p.keys : first + p.queries;
      seen = p.causal && first + query + 1 < keys ? first + query + 1 : keys;
      q = p.q + task * p.depth, y = p.y + task * p.value_depth;
      k = p.k + group * p.key_rows * p.depth, v = p.v + group * p.key_rows * p.value_depth;
      scores = p.scores + block * p.score_keys;
    }
  };

  // x . k in the order of float_gemm, scaled and masked.
  static BITLAB_HOST_DEVICE float score(const CudaAttention& p, const Query& at, int64_t key) {
    const float* k = at.k + key * p.depth;
    float sum = 0;
    BITLAB_UNROLL_BY(8) for (int64_t d = 0; d < p.depth; ++d) sum = fmaf(at.q[d], k[d], sum);
    float z = lane(one_nan(sum)) * p.scale;
    const int64_t place = at.sample * p.mask_strides[0] + at.head * p.mask_strides[1] + at.query * p.mask_strides[2] +
                          key * p.mask_strides[3];
    if (p.mask != nullptr) z = z + p.mask[place];
    if (p.allowed != nullptr) z = z + (p.allowed[place] != 0 ? 0.0F : -__builtin_inff());
    return z;
  }

  static BITLAB_HOST_DEVICE void attend(const Block& block, const CudaAttention& p, const Query& at, Shared& shared) {
    constexpr float kLeast = -__builtin_inff();
    cuda::PerThread<float, kThreads> most;
    block.each([&](int thread) {
      float own = kLeast;
      for (int64_t key = thread; key < at.seen; key += kThreads) {
        const float z = score(p, at, key);
        at.scores[key] = z;
        own = z > own ? z : own;
      }
      shared.lanes[thread] = own;
    });
    cuda::tree_largest(block, shared.lanes);
    block.each([&](int thread) {
      float all = kLeast;
      for (int i = 0; i < kThreads; i += cuda::kSumLanes) all = shared.lanes[i] > all ? shared.lanes[i] : all;
      most[thread] = all == kLeast ? 0 : all;
    });
    block.each([&](int thread) {
      for (int64_t key = thread; key < at.seen; key += kThreads)
        at.scores[key] = lane(exp<true>(F32x16(at.scores[key]) - most[thread]));
    });
    block.sync();
    block.each([&](int thread) {
      float sum = 0;
      if (thread < cuda::kSumLanes)
        BITLAB_UNROLL_BY(8) for (int64_t key = thread; key < at.seen; key += cuda::kSumLanes) sum = sum + at.scores[key];
      shared.lanes[thread] = sum;
    });
    cuda::tree_sum(block, shared.lanes);
    block.each([&](int thread) {
      const float total = shared.lanes[0] == 0 ? 1.0F : shared.lanes[0];
      for (int64_t d = thread; d < p.value_depth; d += kThreads) {
        float sum = 0;
        BITLAB_UNROLL_BY(8) for (int64_t key = 0; key < at.seen; ++key) sum = fmaf(at.scores[key], at.v[key * p.value_depth + d], sum);
        at.y[d] = lane(one_nan(sum)) / total;
      }
    });
    block.sync();
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const Args& args, Shared& shared) {
    for (int64_t task = block.x; task < args.tasks; task += args.blocks)
      attend(block, args.p, Query(args.p, task, block.x), shared);
  }
};

}  // namespace

const char* cuda_attention(const CudaAttention& attention, void* stream) {
  const int64_t tasks = attention.batch * attention.heads * attention.queries,
                blocks = tasks < kCudaAttentionBlocks ? tasks : kCudaAttentionBlocks;
  return cuda::launch<Attend>({blocks}, {attention, tasks, blocks}, stream);
}

}  // namespace bitlab::kernels
