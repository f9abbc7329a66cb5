// Every row of int8_gemm against int64 sums, random and worst cases, over the edges of each dimension.
#include <gtest/gtest.h>

#include "bitlab/kernels/int8_gemm/int8_gemm.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using test::GuardedBytes;

class EveryInt8Gemm : public ::testing::TestWithParam<size_t> {
 protected:
  const Int8GemmRow& row() const { return int8_gemm_kernels().rows[GetParam()]; }
  void SetUp() override {
    if (const std::string reason = test::why_not_here(row()); !reason.empty()) GTEST_SKIP() << reason;
  }
  void check(int64_t tokens, int64_t rows, int64_t depth, bool worst, int threads = 1) {
    const int64_t stride = round_up(depth, kVnStep);
    auto q = test::random_int8(tokens * depth, 1, -127, 127), w = test::random_int8(rows * depth, 2, -127, 127);
    if (worst) {
      for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int64_t>(i) / depth % 2 == 0 ? 127 : -127;
      for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<int64_t>(i) / depth % 3 == 0 ? 127 : -127;
    }
    const auto scale = test::random_floats(rows, 3, 0.1F), bias = test::random_floats(rows, 4),
               a = test::random_floats(tokens, 5);
    GuardedBytes q_memory(static_cast<size_t>(tokens * stride)),
        y_memory(static_cast<size_t>(tokens * rows) * sizeof(float));
    const AlignedBuffer packed = *pack_int8(w, rows, depth);
    GuardedBytes w_memory(packed.size());
    for (int64_t m = 0; m < tokens; ++m) std::copy_n(q.data() + m * depth, depth, q_memory.as<int8_t>() + m * stride);
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(kInt8GemmScratchBytes * threads));
    const Int8GemmArgs args{.weights = w_memory.fill<uint8_t>(packed.bytes()),
                            .rows = rows,
                            .depth = depth,
                            .scale = scale.data(),
                            .scale_stride = 1,
                            .q = q_memory.as<int8_t>(),
                            .q_stride = stride,
                            .a = a.data(),
                            .bias = bias.data(),
                            .y = y_memory.as<float>(),
                            .y_stride = rows};
    int8_gemm(row(), args, tokens, scratch.data(), *make_thread_pool(threads));
    for (int64_t m = 0; m < tokens; ++m)
      for (int64_t n = 0; n < rows; ++n) {
        const auto at = [&](const std::vector<int8_t>& values, int64_t i) {
          return std::span(values).subspan(static_cast<size_t>(i * depth), static_cast<size_t>(depth));
        };
        const auto i = static_cast<size_t>(n);
        const float expected = ternary::oracle::epilogue(ternary::oracle::dot(at(w, n), at(q, m)), a[static_cast<size_t>(m)],
                                                         scale[i], &bias[i]);
        ASSERT_EQ(y_memory.as<float>()[m * rows + n], expected)
            << tokens << " " << rows << " " << depth << " worst " << worst;
      }
  }
};

TEST_P(EveryInt8Gemm, EqualsTheOracle) {
  constexpr int64_t kEdges[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 129, 257};
  int i = 0;
  for (int64_t a : kEdges)
    for (int64_t b : kEdges) {
      const int64_t c = kEdges[static_cast<size_t>(i++) % std::size(kEdges)];
      check(std::min<int64_t>(a, 66), b, c, i % 2 == 0);
      check(std::min<int64_t>(c, 66), a, b, i % 2 == 1);
    }
  check(5, 20, 131'072, true);
  for (int threads : {1, 3}) {
    check(0, 9, 33, false, threads);
    check(5, 0, 33, false, threads);
    check(5, 9, 0, false, threads);
  }
  check(1, 1000, 512, false, 3);
  check(130, 200, 300, false, 3);
}

INSTANTIATE_TEST_SUITE_P(Int8Gemm, EveryInt8Gemm, ::testing::Range<size_t>(0, int8_gemm_kernels().rows.size()),
                         [](const auto& param) { return std::string(int8_gemm_kernels().rows[param.param].name); });

TEST(Int8Gemm, RefusesTheWeightThatHasNoOpposite) {
  const auto packed = pack_int8(std::vector<int8_t>{1, 2, 3, -128}, 2, 2);
  ASSERT_FALSE(packed.ok());
  EXPECT_EQ(packed.error().message, "[int8_gemm] weights in [-127, 127], got -128 (row=1)");
}

}  // namespace
}  // namespace bitlab::kernels
