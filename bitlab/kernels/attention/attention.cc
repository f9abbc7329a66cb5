#include "bitlab/kernels/attention/attention.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/matmul/matmul.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kQueries = 32;  // that share a transposed v

// A worker's memory: v transposed, then the scores of a tile of queries.
int64_t value_bytes(const AttentionArgs& p) {
  return round_up(p.keys * p.value_depth * static_cast<int64_t>(sizeof(float)), kAlignment);
}
int64_t worker_bytes(const AttentionArgs& p) {
  return value_bytes(p) + round_up(kQueries * p.keys * static_cast<int64_t>(sizeof(float)), kAlignment);
}

// Scores of one query become weights: scaled, masked, softmax; zero beyond what it sees.
void weigh(const AttentionKernels& rows, const AttentionArgs& p, int64_t sample, int64_t head, int64_t query,
           float* scores) {
  const int64_t seen = p.causal ? std::min(p.first_query + query + 1, p.keys) : p.keys;
  rows.elementwise->run({.op = Elementwise::mul, .a = scores, .b = &p.scale, .b_count = 1, .y = scores}, 0, seen);
  if (p.mask != nullptr) {
    const auto& s = p.mask_strides;
    const float* mask = p.mask + sample * s[0] + head * s[1] + query * s[2];
    rows.elementwise->run({.op = Elementwise::add, .a = scores, .b = mask, .b_count = s[3] == 0 ? 1 : p.keys, .y = scores},
                          0, seen);
  }
  rows.reduction->run({.op = Reduction::kSoftmax, .x = scores, .columns = seen, .y = scores}, 0, 1);
  std::fill(scores + seen, scores + p.keys, 0.0F);
}

}  // namespace

int64_t attention_scratch_bytes(const AttentionArgs& p, int threads) { return threads * worker_bytes(p); }

void attention(const AttentionKernels& rows, const AttentionArgs& p, uint8_t* scratch, ThreadPool& pool) {
  if (p.heads == 0) return;
  const int64_t tiles = ceil_div(p.queries, kQueries), shared = p.heads / p.groups;
  pool.run(p.batch * p.heads * tiles, [&](int64_t task, int worker) {
    const int64_t begin = task % tiles * kQueries, count = std::min(kQueries, p.queries - begin);
    const int64_t head = task / tiles % p.heads, sample = task / tiles / p.heads;
    const int64_t group = sample * p.groups + head / shared, query = (sample * p.heads + head) * p.queries + begin;
    auto* values = reinterpret_cast<float*>(scratch + worker * worker_bytes(p));
    auto* scores = reinterpret_cast<float*>(scratch + worker * worker_bytes(p) + value_bytes(p));
    transpose(p.v + group * p.key_rows * p.value_depth, p.keys, p.value_depth, values);
    rows.gemm->run(
        {p.k + group * p.key_rows * p.depth, p.keys, p.depth, p.q + query * p.depth, p.depth, nullptr, scores, p.keys}, 0,
        count, 0, p.keys);
    for (int64_t i = 0; i < count; ++i) weigh(rows, p, sample, head, begin + i, scores + i * p.keys);
    rows.gemm->run({values, p.value_depth, p.keys, scores, p.keys, nullptr, p.y + query * p.value_depth, p.value_depth}, 0,
                   count, 0, p.value_depth);
  });
}

}  // namespace bitlab::kernels
