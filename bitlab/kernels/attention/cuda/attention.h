// attention on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// The formula and the order of sums of ../attention.h; pointers are to the device's memory. With `position`, a session with states: first_query is
// *position, and keys are those up to the last query.
struct CudaAttention {
  int64_t batch, heads, groups, queries, keys, depth, value_depth;
  int64_t key_rows;  // from one group to the next
  const int64_t* position;
  float scale;
  bool causal;
  const float* mask;       // or null
  const uint8_t* allowed;  // a mask of bools, or null
  int64_t mask_strides[4];
  const float *q, *k, *v;
  float* y;
  float* scores;  // scratch of cuda_attention_scratch_bytes()
  int64_t score_keys;
};

// For queries that are under way at once, of up to score_keys keys each.
inline constexpr int64_t kCudaAttentionBlocks = 2048;
constexpr int64_t cuda_attention_scratch_bytes(int64_t tasks, int64_t score_keys) {
  return (tasks < kCudaAttentionBlocks ? tasks : kCudaAttentionBlocks) * score_keys * 4;
}
const char* cuda_attention(const CudaAttention& attention, void* stream);

}  // namespace bitlab::kernels
