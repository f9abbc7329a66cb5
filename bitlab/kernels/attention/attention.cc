#include "bitlab/kernels/attention/attention.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kQueries = 192;  // at most, that share packed keys and values
constexpr int64_t kTile = 48;      // of them, whose scores are held
constexpr int64_t kKeys = 128;     // that stay in the nearest cache

// A worker's memory: the keys of a group in panels, its values where they are not in panels as they are, and the scores of a tile.
int64_t key_bytes(const AttentionArgs& p) { return round_up(float_panel_bytes(p.keys, p.depth), kAlignment); }
bool packs_values(const AttentionArgs& p) { return p.value_depth % kFloatPanel != 0; }
int64_t value_bytes(const AttentionArgs& p) {
  return packs_values(p) ? round_up(float_panel_bytes(p.value_depth, p.keys), kAlignment) : 0;
}
int64_t worker_bytes(const AttentionArgs& p) {
  return key_bytes(p) + value_bytes(p) + round_up(kTile * p.keys * static_cast<int64_t>(sizeof(float)), kAlignment);
}

// The first keys that a query sees.
int64_t seen_by(const AttentionArgs& p, int64_t query) {
  return p.causal ? std::min(p.first_query + query + 1, p.keys) : p.keys;
}

// Scores of one query become weights; what their sum of values is divided by.
float weigh(const AttentionKernels& rows, const AttentionArgs& p, int64_t sample, int64_t head, int64_t query,
            float* scores) {
  float total = 0;
  ReductionArgs args{.op = Reduction::kWeights, .x = scores, .columns = seen_by(p, query), .scale = p.scale, .y = scores};
  args.total = &total;
  if (p.mask != nullptr) {
    const auto& s = p.mask_strides;
    args.mask = p.mask + sample * s[0] + head * s[1] + query * s[2];
    args.mask_step = s[3];
  }
  rows.reduction->run(args, 0, 1);
  return total == 0 ? 1 : total;  // of a query that sees nothing, whose weights are 0
}

}  // namespace

int64_t attention_scratch_bytes(const AttentionArgs& p, int threads) { return threads * worker_bytes(p); }

void attention(const AttentionKernels& rows, const AttentionArgs& p, uint8_t* scratch, ThreadPool& pool) {
  if (p.heads == 0 || p.queries == 0) return;
  const int64_t blocks = ceil_div(p.queries, kQueries), block = round_up(ceil_div(p.queries, blocks), kTile);
  pool.run(p.batch * p.heads * blocks, [&](int64_t task, int worker) {
    const int64_t begin = task % blocks * block, end = std::min(begin + block, p.queries);
    const int64_t head = task / blocks % p.heads, sample = task / blocks / p.heads;
    const int64_t group = sample * p.groups + head / (p.heads / p.groups);
    const float *k = p.k + group * p.key_rows * p.depth, *v = p.v + group * p.key_rows * p.value_depth,
                *q = p.q + (sample * p.heads + head) * p.queries * p.depth;
    float* y = p.y + (sample * p.heads + head) * p.queries * p.value_depth;
    uint8_t* memory = scratch + worker * worker_bytes(p);
    auto *keys = reinterpret_cast<float*>(memory), *values = reinterpret_cast<float*>(memory + key_bytes(p)),
         *scores = reinterpret_cast<float*>(memory + key_bytes(p) + value_bytes(p));
    // Keys that one tile reads are packed in the cache, a few at a time.
    const bool once = end - begin <= kTile;
    const int64_t most = seen_by(p, end - 1), share = once ? kKeys : most;
    if (packs_values(p)) pack_float_columns(v, p.value_depth, most, values);
    // The sums over keys [from, to) of the tokens [m, m + count), behind those over the keys before.
    const auto add = [&](int64_t m, int64_t tile, int64_t count, int64_t from, int64_t to) {
      FloatGemmArgs args{v,       p.value_depth,         to - from,    scores + (m - tile) * p.keys + from, p.keys,
                         nullptr, y + m * p.value_depth, p.value_depth};
      args.k_stride = p.value_depth, args.panel_stride = kFloatPanel;
      if (packs_values(p)) args.panels = values, args.k_stride = kFloatPanel, args.panel_stride = kFloatPanel * most;
      args.first = from, args.continues = from != 0;
      rows.gemm->run(args, 0, count, 0, p.value_depth);
    };
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t count = std::min(kTile, end - tile), seen = seen_by(p, tile + count - 1), common = seen_by(p, tile);
      for (int64_t from = 0; from < seen; from += share) {
        const int64_t packed = std::min(share, most - from);
        if (once || tile == begin) pack_float_rows(k + from * p.depth, packed, p.depth, keys);
        rows.gemm->run({keys, packed, p.depth, q + tile * p.depth, p.depth, nullptr, scores + from, p.keys}, 0, count, 0,
                       std::min(share, seen - from));
      }
      float totals[kTile];
      for (int64_t i = 0; i < count; ++i) totals[i] = weigh(rows, p, sample, head, tile + i, scores + i * p.keys);
      add(tile, tile, count, 0, common);
      for (int64_t m = tile; m < tile + count; ++m)  // what a query does not see is not multiplied by 0: it may be NaN
        if (seen_by(p, m) > common) add(m, tile, 1, common, seen_by(p, m));
      for (int64_t i = 0; i < count && seen > 0; ++i) {
        float* row = y + (tile + i) * p.value_depth;
        rows.elementwise->run({.op = Elementwise::div, .a = row, .b = totals + i, .b_count = 1, .y = row}, 0, p.value_depth);
      }
    }
  });
}

}  // namespace bitlab::kernels
