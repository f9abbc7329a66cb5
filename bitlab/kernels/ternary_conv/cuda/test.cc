// Tiles of mma.sync that gather patches, run by the host lane by lane, against the scalar oracle.
#include <memory>

#include <gtest/gtest.h>

#include "bitlab/kernels/conv_test_shapes.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_gemm/cuda/mma_tiles_body.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using ternary::oracle::ConvShape;

// Of one group with 16 n channels: strides, dilations, padding beyond the kernel, one to three dimensions, transposed.
std::vector<ConvShape> gathered_shapes() {
  return {{2, 16, {1, 5, 7}, 17, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}},
          {3, 48, {1, 9, 6}, 66, {1, 3, 2}, {1, 2, 1}, {0, 2, 1}, {1, 2, 1}},
          {1, 32, {1, 1, 40}, 5, {1, 1, 7}, {1, 1, 2}, {0, 0, 3}, {1, 1, 2}},
          {2, 16, {3, 4, 5}, 33, {2, 3, 2}, {2, 1, 1}, {1, 4, 0}},
          {2, 32, {1, 4, 5}, 20, {1, 4, 3}, {1, 2, 3}, {0, 1, 1}, {1, 1, 1}, 1, true, {0, 1, 2}},
          {5, 64, {1, 8, 8}, 130, {1, 1, 1}, {1, 2, 2}}};
}

template <class Tiles>
void compare_gathered(const ConvShape& s, bool two_scales) {
  const ConvGeometry g = test::geometry_of(s);
  ASSERT_TRUE(gathers_in_tiles(g.channels, g.groups, g.depth(), 0));
  std::vector<int8_t> t = test::random_int8(s.filters * g.depth(), 1, -1, 1);
  const std::vector<int8_t> q = test::random_int8(s.batch * g.sample_values(), 2, -127, 127);
  const std::vector<float> a = test::random_floats(s.batch, 3, 0.1F), scale = test::random_floats(s.filters, 4),
                           second = test::random_floats(s.filters, 5);
  const PackedTernary packed =
      pack_ternary(test::packed(t, s.filters, g.depth()), s.filters, g.depth(), TernaryLayout::kMma).value();
  const std::vector<int8_t> last = test::transposed(q, s.batch, s.channels, g.pixels());
  test::GuardedBytes memory(last.size());  // behind the images lies a page that faults
  std::vector<float> y(static_cast<size_t>(s.batch * g.positions() * s.filters));
  TilesArgs args{
      {.weights = packed.data.data(), .rows = s.filters, .depth = g.depth(), .scale = scale.data(), .scale_stride = 1},
      s.batch * g.positions(),
      CudaImage::of(g)};
  if (two_scales) args.p.scale_neg = second.data();
  args.p.q = memory.fill(std::span(last)), args.p.a = a.data(), args.p.y = y.data(), args.p.y_stride = s.filters;
  const auto shared = std::make_unique<typename Tiles::Shared>();
  for (int64_t x = 0; x < Tiles::grid(args).x; ++x) Tiles::run({x, 0}, args, *shared);

  const std::vector<int64_t> sums = ternary::oracle::conv_sums(q, t, s);
  for (int8_t& value : t) value = value > 0 ? int8_t{1} : int8_t{0};
  const std::vector<int64_t> positive = ternary::oracle::conv_sums(q, t, s);
  std::vector<float> expected;
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t n = i / static_cast<size_t>(s.positions()) % static_cast<size_t>(s.filters),
                 sample = i / static_cast<size_t>(s.positions() * s.filters);
    const float plus = static_cast<float>(positive[i]) * a[sample] * scale[n],
                minus = static_cast<float>(positive[i] - sums[i]) * a[sample] * second[n];
    expected.push_back(two_scales ? plus - minus : static_cast<float>(sums[i]) * a[sample] * scale[n]);
  }
  EXPECT_EQ(test::transposed(y, s.batch, g.positions(), s.filters), expected)
      << s.channels << " channels, " << s.filters << " filters, kernel " << s.kernel[0] << "x" << s.kernel[1] << "x"
      << s.kernel[2];
}

TEST(CudaTernaryConv, GatheredPatchesHaveTheSumsOfTheOracle) {
  for (const ConvShape& s : gathered_shapes()) {
    compare_gathered<MmaTiles<2, 4, TernaryScaling::kOne, true>>(s, false);
    compare_gathered<MmaTiles<2, 8, TernaryScaling::kOne, true>>(s, false);
    compare_gathered<MmaTiles<4, 8, TernaryScaling::kOne, true>>(s, false);
    compare_gathered<MmaTiles<2, 4, TernaryScaling::kTwo, true>>(s, true);
  }
}

TEST(CudaTernaryConv, OthersAreNotGathered) {
  EXPECT_FALSE(gathers_in_tiles(24, 1, 216, 0)) << "a copy of 16 values would cross taps";
  EXPECT_FALSE(gathers_in_tiles(32, 2, 144, 0));
  EXPECT_FALSE(gathers_in_tiles(64, 1, 576, 64));
  EXPECT_FALSE(gathers_in_tiles(16, 1, kMmaMaxDepth + 16, 0));
}

}  // namespace
}  // namespace bitlab::kernels
