// Convolutions with int8 weights against the oracle's int64 sums, on every row of int8_gemm, float32 and int8 results.
#include <gtest/gtest.h>

#include "bitlab/kernels/conv_test_shapes.h"
#include "bitlab/kernels/int8_conv/int8_conv.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

using ternary::oracle::ConvShape;

class EveryInt8Conv : public ::testing::TestWithParam<size_t> {
 protected:
  const Int8GemmRow& row() const { return int8_gemm_kernels().rows[GetParam()]; }
  void SetUp() override {
    if (const std::string reason = test::why_not_here(row()); !reason.empty()) GTEST_SKIP() << reason;
  }

  void check(const ConvShape& s, bool worst, int threads) {
    const ConvGeometry g = test::geometry_of(s);
    const int64_t pixels = s.batch * g.positions();
    auto q = test::random_int8(s.batch * g.sample_values(), 21, -127, 127),
         w = test::random_int8(s.filters * g.depth(), 22, -127, 127);
    if (worst) {
      for (auto* values : {&q, &w})
        for (int8_t& v : *values) v = v < 0 ? int8_t{-127} : int8_t{127};
    }
    const auto scale = test::random_floats(s.filters, 23, 0.01F), bias = test::random_floats(s.filters, 24),
               a = test::random_floats(s.batch, 25);
    const auto last = test::transposed(q, s.batch, s.channels, g.pixels());
    const AlignedBuffer packed = *pack_int8(w, s.filters, g.depth(), g.groups);
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(int8_conv_scratch_bytes(g, threads)));
    const auto pool = make_thread_pool(threads);
    std::vector<float> y(static_cast<size_t>(pixels * s.filters));
    std::vector<int8_t> y_q(y.size());
    Int8GemmArgs layer{.weights = packed.data(),
                       .rows = s.filters,
                       .depth = g.depth(),
                       .scale = scale.data(),
                       .scale_stride = 1,
                       .q = last.data(),
                       .a = a.data(),
                       .bias = bias.data(),
                       .y = y.data(),
                       .y_stride = s.filters};
    int8_conv(row(), layer, g, scratch.data(), *pool);
    layer.y = nullptr;
    layer.y_q = y_q.data();
    layer.y_inv = 3.25F;
    int8_conv(row(), layer, g, scratch.data(), *pool);

    const auto sums = ternary::oracle::conv_sums(q, w, s);
    std::vector<float> expected;
    std::vector<int8_t> expected_q;
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t plane = i / static_cast<size_t>(g.positions()), n = plane % static_cast<size_t>(s.filters);
      expected.push_back(ternary::oracle::epilogue(sums[i], a[plane / static_cast<size_t>(s.filters)], scale[n], &bias[n]));
      expected_q.push_back(ternary::oracle::requantize(expected.back(), 3.25F, 127));
    }
    EXPECT_TRUE(test::same_bits(test::transposed(y, s.batch, g.positions(), s.filters), expected));
    EXPECT_EQ(test::transposed(y_q, s.batch, g.positions(), s.filters), expected_q);
  }
};

TEST_P(EveryInt8Conv, EqualsTheOracle) {
  int i = 0;
  for (const ConvShape& shape : test::conv_shapes()) {
    SCOPED_TRACE(i);
    check(shape, i % 2 == 0, 1 + i % 3);
    ++i;
  }
}

INSTANTIATE_TEST_SUITE_P(Int8Conv, EveryInt8Conv, ::testing::Range<size_t>(0, int8_gemm_kernels().rows.size()),
                         [](const auto& param) { return std::string(int8_gemm_kernels().rows[param.param].name); });

}  // namespace
}  // namespace bitlab::kernels
