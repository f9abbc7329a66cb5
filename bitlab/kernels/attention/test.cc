// Attention and matrix products against sums in double; each row, any number of threads: the same bits.
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/attention/attention.h"
#include "bitlab/kernels/matmul/matmul.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

using test::random_floats;
using test::same_bits;

std::vector<AttentionKernels> every_combination() {
  std::vector<AttentionKernels> list;
  for (const FloatGemmRow* gemm : test::runnable(float_gemm_kernels()))
    for (const ReductionRow* reduction : test::runnable(reduction_kernels()))
      for (const ElementwiseRow* elementwise : test::runnable(elementwise_kernels()))
        list.push_back({gemm, reduction, elementwise});
  return list;
}

std::vector<double> attention_in_double(const AttentionArgs& p) {
  std::vector<double> y;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t i = 0; i < p.queries; ++i) {
        const int64_t group = b * p.groups + h / (p.heads / p.groups);
        std::vector<double> weights;
        double most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < p.keys; ++j) {
          double score = 0;
          for (int64_t d = 0; d < p.depth; ++d)
            score += static_cast<double>(p.q[((b * p.heads + h) * p.queries + i) * p.depth + d]) *
                     static_cast<double>(p.k[(group * p.key_rows + j) * p.depth + d]);
          score *= static_cast<double>(p.scale);
          const auto& s = p.mask_strides;
          if (p.mask != nullptr) score += static_cast<double>(p.mask[b * s[0] + h * s[1] + i * s[2] + j * s[3]]);
          if (p.causal && j > p.first_query + i) score = -INFINITY;
          weights.push_back(score);
          most = std::max(most, score);
        }
        for (double& w : weights) sum += w = most == -INFINITY ? 0 : std::exp(w - most);
        if (sum == 0) sum = 1;  // of a query that sees nothing
        for (int64_t e = 0; e < p.value_depth; ++e) {
          double total = 0;
          for (int64_t j = 0; j < p.keys; ++j)
            total += weights[static_cast<size_t>(j)] / sum *
                     static_cast<double>(p.v[(group * p.key_rows + j) * p.value_depth + e]);
          y.push_back(total);
        }
      }
  return y;
}

struct AttentionCase {
  AttentionArgs shape;
  std::array<int64_t, 4> mask_strides;
  bool masked;
  bool hides = false;  // every second element of the mask is -infinity
};
const AttentionCase kAttentionCases[] = {
    {{.batch = 2, .heads = 3, .groups = 3, .queries = 5, .keys = 7, .depth = 6, .value_depth = 4, .scale = 0.4F}, {}, false},
    {{.batch = 1,
      .heads = 4,
      .groups = 2,
      .queries = 70,
      .keys = 70,
      .depth = 17,
      .value_depth = 17,
      .scale = 0.2F,
      .causal = true},
     {},
     false},
    {{.batch = 2, .heads = 4, .groups = 1, .queries = 3, .keys = 5, .depth = 8, .value_depth = 9, .scale = 1},
     {0, 0, 5, 1},
     true},
    {{.batch = 2, .heads = 2, .groups = 2, .queries = 33, .keys = 2, .depth = 1, .value_depth = 1, .scale = 1},
     {2, 1, 0, 0},
     true},
    {{.batch = 1,
      .heads = 1,
      .groups = 1,
      .queries = 4,
      .keys = 2,
      .depth = 3,
      .value_depth = 3,
      .scale = 1,
      .causal = true},
     {},
     false},
    // A query whose keys are all hidden gets 0; of more keys than lanes, and where the mask is the same for all keys.
    {{.batch = 2, .heads = 2, .groups = 2, .queries = 4, .keys = 19, .depth = 3, .value_depth = 5, .scale = 1},
     {0, 0, 1, 0},
     true,
     true},
    {{.batch = 2,
      .heads = 2,
      .groups = 1,
      .queries = 3,
      .keys = 5,
      .depth = 3,
      .value_depth = 3,
      .scale = 1,
      .causal = true},
     {0, 1, 0, 0},
     true,
     true},
    // Sizes of zero; without keys a query sees nothing, and the sum is 0.
    {{.batch = 0, .heads = 2, .groups = 1, .queries = 3, .keys = 4, .depth = 5, .value_depth = 6}, {}, false},
    {{.batch = 2, .heads = 0, .groups = 0, .queries = 3, .keys = 4, .depth = 5, .value_depth = 6}, {}, false},
    {{.batch = 2, .heads = 2, .groups = 1, .queries = 0, .keys = 4, .depth = 5, .value_depth = 6}, {}, false},
    {{.batch = 2, .heads = 2, .groups = 1, .queries = 3, .keys = 0, .depth = 5, .value_depth = 6, .causal = true},
     {},
     false},
    {{.batch = 2, .heads = 2, .groups = 1, .queries = 3, .keys = 4, .depth = 0, .value_depth = 6}, {}, false},
    {{.batch = 2, .heads = 2, .groups = 1, .queries = 3, .keys = 4, .depth = 5, .value_depth = 0}, {}, false},
};

TEST(Attention, IsItsDefinitionOnEveryRow) {
  for (const AttentionCase& c : kAttentionCases) {
    AttentionArgs p = c.shape;
    p.key_rows = p.keys;
    const auto q = random_floats(p.batch * p.heads * p.queries * p.depth, 1),
               k = random_floats(p.batch * p.groups * p.keys * p.depth, 2),
               v = random_floats(p.batch * p.groups * p.keys * p.value_depth, 3);
    auto mask = random_floats(64, 4);
    for (size_t i = 0; c.hides && i < mask.size(); i += 2) mask[i] = -INFINITY;
    p.q = q.data(), p.k = k.data(), p.v = v.data();
    if (c.masked) p.mask = mask.data(), p.mask_strides = c.mask_strides;
    const std::vector<double> reference = attention_in_double(p);
    std::vector<float> first;
    for (const AttentionKernels& rows : every_combination())
      for (int threads : {1, 3}) {
        const auto pool = make_thread_pool(threads);
        std::vector<float> y(reference.size());
        AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(attention_scratch_bytes(p, threads)));
        p.y = y.data();
        attention(rows, p, scratch.data(), *pool);
        for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], reference[i], 1e-5) << i;
        if (first.empty()) first = y;
        EXPECT_TRUE(same_bits(y, first)) << rows.gemm->name << " " << threads;
      }
  }
}

// The queries that follow keys of earlier runs, in memory with room for more: what stands there is not read.
TEST(Attention, OfKeysWithRoomBehindThem) {
  constexpr int64_t kRoom = 5;
  for (const AttentionArgs& shape :
       {AttentionArgs{.batch = 2,
       .heads = 4,
       .groups = 2,
       .queries = 3,
       .keys = 9,
       .depth = 6,
       .value_depth = 5,
       .first_query = 6,
       .scale = 0.4F,
       .causal = true},
        {.batch = 1,
        .heads = 2,
        .groups = 1,
        .queries = 1,
        .keys = 70,
        .depth = 17,
        .value_depth = 3,
        .first_query = 69,
        .scale = 1,
        .causal = true},
        {.batch = 3, .heads = 1, .groups = 1, .queries = 40, .keys = 2, .depth = 4, .value_depth = 4}}) {
    AttentionArgs p = shape;
    p.key_rows = p.keys + kRoom;
    const auto with_room = [&](int64_t depth, uint32_t seed) {
      auto x = random_floats(p.batch * p.groups * p.key_rows * depth, seed);
      for (int64_t row = 0; row < p.batch * p.groups * p.key_rows; ++row)
        if (row % p.key_rows >= p.keys) std::fill_n(x.begin() + row * depth, depth, NAN);
      return x;
    };
    const auto q = random_floats(p.batch * p.heads * p.queries * p.depth, 1), k = with_room(p.depth, 2),
               v = with_room(p.value_depth, 3);
    p.q = q.data(), p.k = k.data(), p.v = v.data();
    const std::vector<double> reference = attention_in_double(p);
    std::vector<float> first;
    for (const AttentionKernels& rows : every_combination())
      for (const int threads : {1, 3}) {
        std::vector<float> y(reference.size());
        AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(attention_scratch_bytes(p, threads)));
        p.y = y.data();
        attention(rows, p, scratch.data(), *make_thread_pool(threads));
        for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], reference[i], 1e-5) << i;
        if (first.empty()) first = y;
        EXPECT_TRUE(same_bits(y, first)) << rows.gemm->name << " " << threads;
      }
  }
}

TEST(Matmul, IsItsDefinitionOnEveryRow) {
  const MatmulShape shapes[] = {{.batch = 3, .m = 5, .k = 7, .n = 4}, {.batch = 1, .m = 130, .k = 33, .n = 1},
                                {.batch = 2, .m = 1, .k = 1, .n = 9}, {.batch = 0, .m = 5, .k = 7, .n = 4},
                                {.batch = 3, .m = 0, .k = 7, .n = 4}, {.batch = 3, .m = 5, .k = 0, .n = 4},
                                {.batch = 3, .m = 5, .k = 7, .n = 0}};
  for (const MatmulShape& s : shapes) {
    const auto a = random_floats(s.batch * s.m * s.k, 5), c = random_floats(s.batch * s.k * s.n, 6);
    std::vector<float> first;
    for (const FloatGemmRow* row : test::runnable(float_gemm_kernels())) {
      for (int threads : {1, 3}) {
        const auto pool = make_thread_pool(threads);
        std::vector<float> y(static_cast<size_t>(s.batch * s.m * s.n));
        AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(matmul_scratch_bytes(s, threads)));
        matmul(*row, s, a.data(), c.data(), y.data(), scratch.data(), *pool);
        for (int64_t b = 0; b < s.batch; ++b)
          for (int64_t i = 0; i < s.m; ++i)
            for (int64_t j = 0; j < s.n; ++j) {
              double sum = 0;
              for (int64_t l = 0; l < s.k; ++l)
                sum += static_cast<double>(a[static_cast<size_t>((b * s.m + i) * s.k + l)]) *
                       static_cast<double>(c[static_cast<size_t>((b * s.k + l) * s.n + j)]);
              ASSERT_NEAR(y[static_cast<size_t>((b * s.m + i) * s.n + j)], sum, 1e-5);
            }
        if (first.empty()) first = y;
        EXPECT_TRUE(same_bits(y, first)) << row->name;
      }
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
