// Ternary layers from float to float and from int8 to int8, against the scalar oracle, bit by bit, on every kernel.
#include <gtest/gtest.h>

#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using ternary::oracle::ConvShape;

struct Layer {
  std::vector<int8_t> t;
  std::vector<float> scale, bias;
  PackedTernary packed;

  Layer(int64_t rows, int64_t depth, bool per_channel, bool with_bias, TernaryLayout layout, int64_t groups = 1)
      : t(test::random_int8(rows * depth, 11, -1, 1)),
        scale(test::random_floats(per_channel ? rows : 1, 12, 0.1F)),
        bias(with_bias ? test::random_floats(rows, 13) : std::vector<float>()),
        packed(*pack_ternary(test::packed(t, rows, depth), rows, depth, layout, groups)) {}
  TernaryWeight weight() const {
    return {&packed, scale.data(), scale.size() > 1 ? 1 : 0, bias.empty() ? nullptr : bias.data()};
  }
};

std::vector<ConvShape> shapes() {
  return {
      {.batch = 1, .channels = 1, .input = {1, 28, 28}, .filters = 20, .kernel = {1, 5, 5}},
      {.batch = 2, .channels = 20, .input = {1, 12, 12}, .filters = 50, .kernel = {1, 5, 5}},
      {.batch = 3, .channels = 3, .input = {1, 9, 7}, .filters = 17, .kernel = {1, 3, 3}, .padding = {0, 1, 1}},
      {.batch = 1,
       .channels = 5,
       .input = {1, 8, 11},
       .filters = 9,
       .kernel = {1, 3, 2},
       .stride = {1, 2, 3},
       .padding = {0, 1, 0}},
      {.batch = 2,
       .channels = 4,
       .input = {1, 13, 10},
       .filters = 33,
       .kernel = {1, 3, 3},
       .stride = {1, 2, 1},
       .padding = {0, 2, 2},
       .dilation = {1, 2, 2}},
      {.batch = 2, .channels = 64, .input = {1, 6, 6}, .filters = 64, .kernel = {1, 1, 1}},  // pointwise
      {.batch = 1, .channels = 7, .input = {1, 1, 1}, .filters = 3, .kernel = {1, 1, 1}},
      {.batch = 2, .channels = 2, .input = {1, 5, 40}, .filters = 8, .kernel = {1, 5, 5}, .padding = {0, 2, 2}},
      // Patches whose lines are read in place: a multiple of 16 values.
      {.batch = 2, .channels = 16, .input = {1, 7, 9}, .filters = 70, .kernel = {1, 3, 3}, .padding = {0, 1, 1}},
      {.batch = 2,
       .channels = 8,
       .input = {1, 11, 70},
       .filters = 24,
       .kernel = {1, 3, 2},
       .stride = {1, 2, 1},
       .padding = {0, 2, 1},
       .dilation = {1, 2, 1}},
      {.batch = 1, .channels = 4, .input = {1, 9, 9}, .filters = 9, .kernel = {1, 4, 4}, .stride = {1, 1, 2}},
      // One dimension, three dimensions.
      {.batch = 2,
       .channels = 12,
       .input = {1, 1, 50},
       .filters = 18,
       .kernel = {1, 1, 7},
       .stride = {1, 1, 2},
       .padding = {0, 0, 3},
       .dilation = {1, 1, 2}},
      {.batch = 2,
       .channels = 6,
       .input = {5, 6, 7},
       .filters = 10,
       .kernel = {3, 2, 3},
       .stride = {2, 1, 1},
       .padding = {1, 0, 1},
       .dilation = {1, 2, 1}},
      // Groups of channels.
      {.batch = 2,
       .channels = 12,
       .input = {1, 9, 9},
       .filters = 30,
       .kernel = {1, 3, 3},
       .padding = {0, 1, 1},
       .groups = 3},
      {.batch = 1, .channels = 8, .input = {1, 1, 20}, .filters = 16, .kernel = {1, 1, 3}, .groups = 8},
      // Depthwise: 9 taps, more than 256, three dimensions, transposed.
      {.batch = 2,
       .channels = 37,
       .input = {1, 9, 8},
       .filters = 37,
       .kernel = {1, 3, 3},
       .stride = {1, 2, 1},
       .padding = {0, 1, 1},
       .groups = 37},
      {.batch = 1,
       .channels = 16,
       .input = {1, 20, 20},
       .filters = 16,
       .kernel = {1, 17, 17},
       .padding = {0, 3, 3},
       .groups = 16},
      {.batch = 1, .channels = 5, .input = {4, 5, 6}, .filters = 5, .kernel = {3, 3, 3}, .padding = {1, 1, 1}, .groups = 5},
      {.batch = 2,
       .channels = 9,
       .input = {1, 5, 6},
       .filters = 9,
       .kernel = {1, 3, 3},
       .stride = {1, 2, 2},
       .padding = {0, 1, 1},
       .groups = 9,
       .transposed = true,
       .output_padding = {0, 1, 1}},
      // Transposed.
      {.batch = 2,
       .channels = 7,
       .input = {1, 6, 5},
       .filters = 11,
       .kernel = {1, 4, 3},
       .stride = {1, 2, 3},
       .padding = {0, 1, 1},
       .transposed = true,
       .output_padding = {0, 1, 2}},
      {.batch = 1,
       .channels = 4,
       .input = {3, 4, 5},
       .filters = 6,
       .kernel = {2, 3, 2},
       .stride = {2, 1, 2},
       .padding = {1, 1, 0},
       .dilation = {1, 2, 1},
       .groups = 2,
       .transposed = true},
  };
}

class EveryTernaryLayer : public ::testing::TestWithParam<size_t> {
 protected:
  const TernaryGemmRow& row() const { return ternary_gemm_rows()[GetParam()]; }
  void SetUp() override {
    if (row().run == nullptr || !row().needs.minus(this_machine().features).empty())
      GTEST_SKIP() << row().name << " does not run on this machine";
  }
  // Depthwise layers have kernels of their own.
  TernaryKernels kernels_for(const ConvGeometry& g, int64_t rows, TernaryLayout* layout) const {
    TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), &row(), nullptr};
    *layout = row().layout;
    if (*select_ternary_conv_layout(g, rows, this_machine(), {}) == TernaryLayout::kRows && g.groups > 1) {
      *layout = TernaryLayout::kRows;
      kernels = *select_ternary_conv(g, rows, *layout, this_machine(), {});
    }
    return kernels;
  }

  void check_conv(const ConvShape& s, bool per_channel, bool with_bias, int threads) {
    const ConvGeometry g = test::geometry_of(s);
    for (size_t d = 0; d < 3; ++d) ASSERT_EQ(g.out(d), s.out(d));
    TernaryLayout layout;
    const TernaryKernels kernels = kernels_for(g, s.filters, &layout);
    const Layer layer(s.filters, g.depth(), per_channel, with_bias, layout, g.groups);
    const auto x = test::random_floats(s.batch * g.sample_values(), 14);
    const auto last = test::transposed(x, s.batch, s.channels, g.pixels());
    std::vector<float> y(static_cast<size_t>(s.batch * g.positions() * s.filters), 1e30F);
    AlignedBuffer scratch =
        *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(kernels, layer.weight(), g, threads)));
    ASSERT_TRUE(ternary_conv(kernels, layer.weight(), g, {.x = last.data()}, {.y = y.data()}, scratch.data(),
                             *make_thread_pool(threads))
                    .ok());
    const auto expected = ternary::oracle::conv(x, layer.t, layer.scale, layer.bias, s);
    EXPECT_TRUE(test::same_bits(test::transposed(y, s.batch, g.positions(), s.filters), expected)) << describe(s);
  }

  // int8 in and out with static scales, on the worst case of |q| = 127.
  void check_int8(const ConvShape& s) {
    const ConvGeometry g = test::geometry_of(s);
    TernaryLayout layout;
    const TernaryKernels kernels = kernels_for(g, s.filters, &layout);
    const Layer layer(s.filters, g.depth(), true, true, layout, g.groups);
    auto q = test::random_int8(s.batch * g.sample_values(), 15, 0, 1);
    for (int8_t& v : q) v = v == 0 ? int8_t{-127} : int8_t{127};
    const auto last = test::transposed(q, s.batch, s.channels, g.pixels());
    const float a = 0.03F, inv = 5.5F;
    std::vector<int8_t> y(static_cast<size_t>(s.batch * g.positions() * s.filters)), expected;
    TernaryWeight weight = layer.weight();
    weight.relu = true;
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(kernels, weight, g, 2)));
    ASSERT_TRUE(ternary_conv(kernels, weight, g, {.q = last.data(), .a = &a}, {.y_q = y.data(), .y_inv = inv},
                             scratch.data(), *make_thread_pool(2))
                    .ok());
    const auto sums = ternary::oracle::conv_sums(q, layer.t, s);
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t n = i / static_cast<size_t>(s.positions()) % static_cast<size_t>(s.filters);
      const float value = ternary::oracle::epilogue(sums[i], a, layer.scale[n], &layer.bias[n]);
      expected.push_back(ternary::oracle::requantize(value < 0 ? 0 : value, inv, 127));
    }
    EXPECT_EQ(test::transposed(y, s.batch, g.positions(), s.filters), expected) << describe(s);
  }

  static std::string describe(const ConvShape& s) {
    return fmt::format("input {}x{}x{}x{} kernel {}x{}x{} groups {} transposed {}", s.channels, s.input[0], s.input[1],
                       s.input[2], s.kernel[0], s.kernel[1], s.kernel[2], s.groups, s.transposed);
  }
};

TEST_P(EveryTernaryLayer, ConvolutionsEqualTheOracle) {
  int i = 0;
  for (const ConvShape& shape : shapes())
    for (int threads : {1, 3}) {
      check_conv(shape, i % 2 == 0, i % 3 != 0, threads);
      ++i;
    }
}

TEST_P(EveryTernaryLayer, Int8ConvolutionsEqualTheOracle) {
  for (const ConvShape& shape : shapes()) check_int8(shape);
}

TEST_P(EveryTernaryLayer, LinearLayersEqualTheOracle) {
  int i = 0;
  for (int64_t tokens : {1, 2, 7, 64, 65})
    for (auto [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {10, 500}, {500, 800}, {65, 33}, {8, 16}}) {
      const TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), &row(), nullptr};
      const Layer layer(rows, depth, i % 2 == 0, i % 3 == 0, row().layout);
      const auto x = test::random_floats(tokens * depth, static_cast<uint32_t>(i++));
      std::vector<float> y(static_cast<size_t>(tokens * rows));
      AlignedBuffer scratch =
          *AlignedBuffer::allocate(static_cast<size_t>(ternary_linear_scratch_bytes(kernels, layer.weight(), tokens, 3)));
      ASSERT_TRUE(
          ternary_linear(kernels, layer.weight(), x.data(), tokens, y.data(), scratch.data(), *make_thread_pool(1 + i % 3))
              .ok());
      EXPECT_TRUE(test::same_bits(y, ternary::oracle::linear(x, tokens, layer.t, rows, depth, layer.scale, layer.bias)))
          << tokens << " tokens, " << rows << "x" << depth;
    }
}

INSTANTIATE_TEST_SUITE_P(TernaryConv, EveryTernaryLayer, ::testing::Range<size_t>(0, ternary_gemm_rows().size()),
                         [](const auto& param) { return std::string(ternary_gemm_rows()[param.param].name); });

// Every row of ternary_depthwise on the shapes that it serves.
TEST(EveryTernaryDepthwise, EqualsTheOracle) {
  for (const TernaryDepthwiseRow& row : ternary_depthwise_kernels().rows) {
    if (row.run == nullptr || !row.needs.minus(this_machine().features).empty()) continue;
    for (const ConvShape& s : shapes()) {
      if (s.groups != s.channels || s.filters != s.channels || s.groups == 1) continue;
      const ConvGeometry g = test::geometry_of(s);
      const TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), nullptr, &row};
      const Layer layer(s.filters, g.depth(), true, true, TernaryLayout::kRows);
      const auto x = test::random_floats(s.batch * g.sample_values(), 16);
      const auto last = test::transposed(x, s.batch, s.channels, g.pixels());
      std::vector<float> y(static_cast<size_t>(s.batch * g.positions() * s.filters));
      AlignedBuffer scratch =
          *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(kernels, layer.weight(), g, 2)));
      ASSERT_TRUE(
          ternary_conv(kernels, layer.weight(), g, {.x = last.data()}, {.y = y.data()}, scratch.data(), *make_thread_pool(2))
              .ok());
      EXPECT_TRUE(test::same_bits(test::transposed(y, s.batch, g.positions(), s.filters),
                                  ternary::oracle::conv(x, layer.t, layer.scale, layer.bias, s)))
          << row.name;
    }
  }
}

TEST(TernaryConv, RefusesGroupsOfScalesWhereChannelsAreInGroups) {
  const ConvGeometry g{.channels = 4, .input = {1, 1, 4}, .groups = 2};
  const Layer layer(4, 2, true, false, TernaryLayout::kRows, 2);
  TernaryWeight weight = layer.weight();
  weight.group = 64;
  const TernaryKernels kernels =
      *select_ternary_conv(g, 4, TernaryLayout::kRows, this_machine(), {"ternary_gemm:reference"});
  const Status status = ternary_conv(kernels, weight, g, {}, {}, nullptr, *make_thread_pool(1));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "[ternary_conv] one scale a row where channels are in groups, got groups of 64 k");
}

}  // namespace
}  // namespace bitlab::kernels
