// Ternary layers from float to float, against the scalar oracle, bit by bit, on every kernel.
#include <gtest/gtest.h>

#include "bitlab/kernels/ternary_conv2d/ternary_conv2d.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using ternary::oracle::Conv2dShape;

// [batch, rows, columns] to [batch, columns, rows].
std::vector<float> transposed(const std::vector<float>& x, int64_t batch, int64_t rows, int64_t columns) {
  std::vector<float> y(x.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        y[static_cast<size_t>((b * columns + c) * rows + r)] = x[static_cast<size_t>((b * rows + r) * columns + c)];
  return y;
}

struct Layer {
  std::vector<int8_t> t;
  std::vector<float> scale, bias;
  PackedTernary packed;

  Layer(int64_t rows, int64_t depth, bool per_channel, bool with_bias, TernaryLayout layout)
      : t(test::random_int8(rows * depth, 11, -1, 1)),
        scale(test::random_floats(per_channel ? rows : 1, 12, 0.1F)),
        bias(with_bias ? test::random_floats(rows, 13) : std::vector<float>()),
        packed(*pack_ternary(test::packed(t, rows, depth), rows, depth, layout)) {}
  TernaryWeight weight() const {
    return {&packed, scale.data(), scale.size() > 1 ? 1 : 0, bias.empty() ? nullptr : bias.data()};
  }
};

class EveryTernaryLayer : public ::testing::TestWithParam<size_t> {
 protected:
  const TernaryGemmRow& row() const { return ternary_gemm_rows()[GetParam()]; }
  void SetUp() override {
    if (row().run == nullptr || !row().needs.minus(this_machine().features).empty())
      GTEST_SKIP() << row().name << " does not run on this machine";
  }
  TernaryKernels kernels() const { return {*select_activation_quant(this_machine(), {}), &row()}; }

  void check_conv(const Conv2dShape& s, bool per_channel, bool with_bias, int threads) {
    const Conv2dGeometry g{s.batch,    s.channels, s.height,    s.width,     s.kernel_h,   s.kernel_w,
                           s.stride_h, s.stride_w, s.padding_h, s.padding_w, s.dilation_h, s.dilation_w};
    ASSERT_EQ(g.out_h(), s.out_h());
    ASSERT_EQ(g.out_w(), s.out_w());
    const Layer layer(s.filters, g.depth(), per_channel, with_bias, row().layout);
    const auto x = test::random_floats(s.batch * g.sample_values(), 14);
    const auto nhwc = transposed(x, s.batch, s.channels, s.height * s.width);
    std::vector<float> y(static_cast<size_t>(s.batch * g.positions() * s.filters), 1e30F);
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv2d_scratch_bytes(kernels(), g, threads)));
    ASSERT_TRUE(
        ternary_conv2d(kernels(), layer.weight(), g, nhwc.data(), y.data(), scratch.data(), *make_thread_pool(threads))
            .ok());
    const auto expected = ternary::oracle::conv2d(x, layer.t, layer.scale, layer.bias, s);
    EXPECT_TRUE(test::same_bits(transposed(y, s.batch, g.positions(), s.filters), expected))
        << "image " << s.height << "x" << s.width << "x" << s.channels << " kernel " << s.kernel_h << "x" << s.kernel_w;
  }
};

TEST_P(EveryTernaryLayer, ConvolutionsEqualTheOracle) {
  const Conv2dShape shapes[] = {
      {1, 1, 28, 28, 20, 5, 5},
      {2, 20, 12, 12, 50, 5, 5},
      {3, 3, 9, 7, 17, 3, 3, 1, 1, 1, 1},
      {1, 5, 8, 11, 9, 3, 2, 2, 3, 1, 0},
      {2, 4, 13, 10, 33, 3, 3, 2, 1, 2, 2, 2, 2},
      {1, 64, 6, 6, 64, 1, 1},
      {1, 7, 1, 1, 3, 1, 1},
      {2, 2, 5, 40, 8, 5, 5, 1, 1, 2, 2},
  };
  int i = 0;
  for (const Conv2dShape& shape : shapes)
    for (int threads : {1, 3}) {
      check_conv(shape, i % 2 == 0, i % 3 != 0, threads);
      ++i;
    }
}

TEST_P(EveryTernaryLayer, LinearLayersEqualTheOracle) {
  int i = 0;
  for (int64_t tokens : {1, 2, 7, 64, 65})
    for (auto [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {10, 500}, {500, 800}, {65, 33}, {8, 16}}) {
      const Layer layer(rows, depth, i % 2 == 0, i % 3 == 0, row().layout);
      const auto x = test::random_floats(tokens * depth, static_cast<uint32_t>(i++));
      std::vector<float> y(static_cast<size_t>(tokens * rows));
      AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(ternary_linear_scratch_bytes(kernels(), tokens, depth, 3)));
      ASSERT_TRUE(
          ternary_linear(kernels(), layer.weight(), x.data(), tokens, y.data(), scratch.data(), *make_thread_pool(1 + i % 3))
              .ok());
      EXPECT_TRUE(test::same_bits(y, ternary::oracle::linear(x, tokens, layer.t, rows, depth, layer.scale, layer.bias)))
          << tokens << " tokens, " << rows << "x" << depth;
    }
}

INSTANTIATE_TEST_SUITE_P(TernaryConv2d, EveryTernaryLayer, ::testing::Range<size_t>(0, ternary_gemm_rows().size()),
                         [](const auto& param) { return std::string(ternary_gemm_rows()[param.param].name); });

}  // namespace
}  // namespace bitlab::kernels
