// Ternary layers from float to float and from int8 to int8, against the scalar oracle, bit by bit, on every kernel.
#include <gtest/gtest.h>

#include "bitlab/kernels/conv_test_shapes.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using ternary::oracle::ConvShape;
using test::conv_shapes;

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

std::string describe(const ConvShape& s) {
  return fmt::format("input {}x{}x{}x{} kernel {}x{}x{} padding {}x{}x{} groups {} transposed {}", s.channels, s.input[0],
                     s.input[1], s.input[2], s.kernel[0], s.kernel[1], s.kernel[2], s.padding[0], s.padding[1], s.padding[2],
                     s.groups, s.transposed);
}

// int8 in and out with static scales, on the worst case of |q| = 127.
void check_int8(const TernaryKernels& kernels, TernaryLayout layout, const ConvShape& s) {
  const ConvGeometry g = test::geometry_of(s);
  const Layer layer(s.filters, g.depth(), true, true, layout, g.groups);
  auto q = test::random_int8(s.batch * g.sample_values(), 15, 0, 1);
  for (int8_t& v : q) v = v == 0 ? int8_t{-127} : int8_t{127};
  const auto last = test::transposed(q, s.batch, s.channels, g.pixels());
  const float a = 0.03F, inv = 5.5F;
  std::vector<int8_t> y(static_cast<size_t>(s.batch * g.positions() * s.filters)), expected;
  TernaryWeight weight = layer.weight();
  weight.relu = true;
  AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(kernels, weight, g, 2)));
  ASSERT_TRUE(ternary_conv(kernels, weight, g, {.q = last.data(), .a = &a}, {.y_q = y.data(), .y_inv = inv}, scratch.data(),
                           *make_thread_pool(2))
                  .ok());
  const auto sums = ternary::oracle::conv_sums(q, layer.t, s);
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t n = i / static_cast<size_t>(s.positions()) % static_cast<size_t>(s.filters);
    const float value = ternary::oracle::epilogue(sums[i], a, layer.scale[n], &layer.bias[n]);
    expected.push_back(ternary::oracle::requantize(value < 0 ? 0 : value, inv, 127));
  }
  EXPECT_EQ(test::transposed(y, s.batch, g.positions(), s.filters), expected) << describe(s);
}

class EveryTernaryLayer : public ::testing::TestWithParam<size_t> {
 protected:
  const TernaryGemmRow& row() const { return ternary_gemm_kernels().rows[GetParam()]; }
  void SetUp() override {
    if (const std::string reason = test::why_not_here(row()); !reason.empty()) GTEST_SKIP() << reason;
  }
  // Depthwise layers have kernels of their own.
  TernaryKernels kernels_for(const ConvGeometry& g, int64_t rows, TernaryLayout* layout) const {
    TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), &row()};
    *layout = row().layout;
    if (*select_ternary_conv_layout(g, {rows}, this_machine(), {}) == TernaryLayout::kRows && g.groups > 1) {
      *layout = TernaryLayout::kRows;
      kernels = *select_ternary_conv(g, {rows}, *layout, this_machine(), {});
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
};

TEST_P(EveryTernaryLayer, ConvolutionsEqualTheOracle) {
  int i = 0;
  for (const ConvShape& shape : conv_shapes())
    for (int threads : {1, 3}) {
      check_conv(shape, i % 2 == 0, i % 3 != 0, threads);
      ++i;
    }
}

// No samples, no filters, no channels (each sum is of nothing, and the bias is left), no pixels.
TEST_P(EveryTernaryLayer, SizesOfZero) {
  const ConvShape one{.batch = 2, .channels = 16, .input = {1, 3, 4}, .filters = 5, .kernel = {1, 2, 2}};
  for (int zero = 0; zero < 4; ++zero)
    for (int64_t groups : {1, 16}) {
      ConvShape s = one;
      s.groups = groups;
      if (groups != 1) s.filters = 16;
      if (zero == 0) s.batch = 0;
      if (zero == 1) s.filters = 0;
      if (zero == 2) s.channels = 0;
      if (zero == 3) s.input[1] = 0;
      const ConvGeometry g = test::geometry_of(s);
      TernaryLayout layout;
      const TernaryKernels kernels = kernels_for(g, s.filters, &layout);
      const Layer layer(s.filters, g.depth(), false, true, layout, groups);
      const auto x = test::random_floats(g.batch * g.sample_values(), 14);
      std::vector<float> y(static_cast<size_t>(g.batch * g.positions() * s.filters), 1e30F);
      AlignedBuffer scratch =
          *AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(kernels, layer.weight(), g, 2)));
      ASSERT_TRUE(
          ternary_conv(kernels, layer.weight(), g, {.x = x.data()}, {.y = y.data()}, scratch.data(), *make_thread_pool(2))
              .ok());
      ASSERT_EQ(y.empty(), zero != 2);
      for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], layer.bias[i % layer.bias.size()]) << zero;
    }
}

TEST_P(EveryTernaryLayer, Int8ConvolutionsEqualTheOracle) {
  for (const ConvShape& shape : conv_shapes()) {
    TernaryLayout layout;
    const TernaryKernels kernels = kernels_for(test::geometry_of(shape), shape.filters, &layout);
    check_int8(kernels, layout, shape);
  }
}

TEST_P(EveryTernaryLayer, LinearLayersEqualTheOracle) {
  int i = 0;
  for (int64_t tokens : {1, 2, 7, 64, 65, 0})
    for (auto [rows, depth] :
         {std::pair<int64_t, int64_t>{1, 1}, {10, 500}, {500, 800}, {65, 33}, {8, 16}, {0, 5}, {9, 0}}) {
      const TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), &row()};
      const Layer layer(rows, depth, i % 2 == 0, i % 3 == 0, row().layout);
      const auto x = test::random_floats(tokens * depth, static_cast<uint32_t>(i++));
      std::vector<float> y(static_cast<size_t>(tokens * rows));
      AlignedBuffer scratch =
          *AlignedBuffer::allocate(static_cast<size_t>(ternary_linear_scratch_bytes(kernels, layer.weight(), tokens, 3)));
      ASSERT_TRUE(ternary_linear(kernels, layer.weight(), {.x = x.data()}, tokens, y.data(), scratch.data(),
                                 *make_thread_pool(1 + i % 3))
                      .ok());
      EXPECT_TRUE(test::same_bits(y, ternary::oracle::linear(x, tokens, layer.t, rows, depth, layer.scale, layer.bias)))
          << tokens << " tokens, " << rows << "x" << depth;
    }
}

INSTANTIATE_TEST_SUITE_P(TernaryConv, EveryTernaryLayer, ::testing::Range<size_t>(0, ternary_gemm_kernels().rows.size()),
                         [](const auto& param) { return std::string(ternary_gemm_kernels().rows[param.param].name); });

// Every row of ternary_depthwise on the shapes that it serves.
TEST(EveryTernaryDepthwise, EqualsTheOracle) {
  for (const TernaryDepthwiseRow* row : test::runnable(ternary_depthwise_kernels())) {
    for (const ConvShape& s : conv_shapes()) {
      if (s.groups != s.channels || s.filters != s.channels || s.groups == 1) continue;
      const ConvGeometry g = test::geometry_of(s);
      const TernaryKernels kernels{*select(activation_quant_kernels(), this_machine(), {}), row};
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
          << row->name << ' ' << describe(s);
      check_int8(kernels, TernaryLayout::kRows, s);
    }
  }
}

TEST(TernaryConv, RefusesSizesThatAreNone) {
  const Layer layer(4, 4, true, false, TernaryLayout::kRows);
  const auto error_of = [&](const ConvGeometry& g) {
    return ternary_conv({}, layer.weight(), g, {.op = "ternary_conv"}, {}, nullptr, *make_thread_pool(1)).error().message;
  };
  const ConvGeometry g{.channels = 4, .input = {1, 1, 4}};
  const std::string_view form =
      "[ternary_conv] kernel, stride, dilation and groups from 1, padding from 0, up to 2^20, got ";
  const auto with = [&](auto change) {
    ConvGeometry changed = g;
    change(changed);
    return error_of(changed);
  };
  EXPECT_EQ(with([](ConvGeometry& c) { c.stride[2] = 0; }), fmt::format("{}1, 0, 1, 1 and 0 in dimension 2", form));
  EXPECT_EQ(with([](ConvGeometry& c) { c.kernel[1] = 0; }), fmt::format("{}0, 1, 1, 1 and 0 in dimension 1", form));
  EXPECT_EQ(with([](ConvGeometry& c) { c.dilation[0] = -1; }), fmt::format("{}1, 1, -1, 1 and 0 in dimension 0", form));
  EXPECT_EQ(with([](ConvGeometry& c) { c.groups = 0; }), fmt::format("{}1, 1, 1, 0 and 0 in dimension 0", form));
  EXPECT_EQ(with([](ConvGeometry& c) { c.padding[2] = int64_t{1} << 62; }),
            fmt::format("{}1, 1, 1, 1 and 4611686018427387904 in dimension 2", form));
}

TEST(TernaryConv, RefusesGroupsOfScalesWhereChannelsAreInGroups) {
  const ConvGeometry g{.channels = 4, .input = {1, 1, 4}, .groups = 2};
  const Layer layer(4, 2, true, false, TernaryLayout::kRows, 2);
  TernaryWeight weight = layer.weight();
  weight.group = 64;
  const TernaryKernels kernels =
      *select_ternary_conv(g, {4}, TernaryLayout::kRows, this_machine(), {"ternary_gemm:reference"});
  const Status status = ternary_conv(kernels, weight, g, {.op = "ternary_conv"}, {}, nullptr, *make_thread_pool(1));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "[ternary_conv] one scale a row where channels are in groups, got groups of 64 k");
}

}  // namespace
}  // namespace bitlab::kernels
