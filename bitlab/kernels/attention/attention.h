// Scaled dot-product attention of Vaswani et al. 2017 (arXiv:1706.03762), float32:
//
//   y[b, h, i] = sum over j of p[i, j] v[b, g, j],   p[i] = softmax over j of (q[b, h, i] . k[b, g, j]) scale + mask[b, h, i, j]
//
//   q [batch, heads, queries, depth], k [batch, groups, keys, depth], v [batch, groups, keys, value_depth]
//   -> y [batch, heads, queries, value_depth], all row-major; head h reads group g = h / (heads / groups): grouped queries
//
// Causal: query i sees the keys 0 to first_query + i. A query that sees nothing, whose masks are all -infinity, gets 0, as from LibTorch. Products run as in
// float_gemm, weights as in reduction (kWeights), and the sum of weighted values is divided by the sum of the weights ("bounded"): neither the number of
// threads nor the machine changes a bit.
#pragma once

#include <array>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/reduction/reduction.h"

namespace bitlab::kernels {

struct AttentionKernels {
  const FloatGemmRow* gemm = nullptr;
  const ReductionRow* reduction = nullptr;
  const ElementwiseRow* elementwise = nullptr;
};

struct AttentionArgs {
  int64_t batch = 0, heads = 0, groups = 0, queries = 0, keys = 0, depth = 0, value_depth = 0;
  int64_t key_rows = 0;     // rows of k and v from one group to the next: `keys`, or more, of which the first `keys` count
  int64_t first_query = 0;  // the position of query 0 among the keys
  float scale = 1;
  bool causal = false;
  const float* mask = nullptr;               // added to the scaled products, or null
  std::array<int64_t, 4> mask_strides = {};  // along batch, heads, queries, keys; 0 repeats
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  float* y = nullptr;
};

int64_t attention_scratch_bytes(const AttentionArgs& args, int threads);

// `scratch` is aligned to 64 and holds attention_scratch_bytes for at least pool.threads() threads.
void attention(const AttentionKernels& kernels, const AttentionArgs& args, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
