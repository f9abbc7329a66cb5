// Tiles of mma.sync that gather patches, run by the host lane by lane, against the scalar oracle.
#include <memory>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
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

// The sums over the k of which `takes` is true of a weight; other weights are zero.
template <class Takes>
std::vector<int64_t> sums_where(const std::vector<int8_t>& q, std::vector<int8_t> t, const ConvShape& s,
                                const Takes& takes) {
  const auto depth = static_cast<size_t>(test::geometry_of(s).depth());
  for (size_t i = 0; i < t.size(); ++i)
    if (!takes(static_cast<int64_t>(i % depth), t[i])) t[i] = 0;
  return ternary::oracle::conv_sums(q, t, s);
}

template <class Tiles>
void compare_gathered(const ConvShape& s, TernaryScaling scaling) {
  constexpr int64_t kGroup = 64;
  const ConvGeometry g = test::geometry_of(s);
  ASSERT_TRUE(gathers_in_tiles(g.channels, g.groups, g.depth()));
  const std::vector<int8_t> t = test::random_int8(s.filters * g.depth(), 1, -1, 1),
                            q = test::random_int8(s.batch * g.sample_values(), 2, -127, 127);
  const int64_t groups = (g.depth() + kGroup - 1) / kGroup;
  const std::vector<float> a = test::random_floats(s.batch, 3, 0.1F), scale = test::random_floats(s.filters, 4),
                           second = test::random_floats(s.filters, 5);
  std::vector<uint16_t> halves;  // [groups, filters]
  for (const float value : test::random_floats(groups * s.filters, 6)) halves.push_back(float_to_half(value));
  const PackedTernary packed =
      pack_ternary(test::packed(t, s.filters, g.depth()), s.filters, g.depth(), TernaryLayout::kMma).value();
  const std::vector<int8_t> last = test::transposed(q, s.batch, s.channels, g.pixels());
  test::GuardedBytes memory(last.size());  // behind the images lies a page that faults
  std::vector<float> y(static_cast<size_t>(s.batch * g.positions() * s.filters));
  TilesArgs args{
      {.weights = packed.data.data(), .rows = s.filters, .depth = g.depth()}, s.batch * g.positions(), CudaImage::of(g)};
  if (scaling == TernaryScaling::kGroups) {
    args.p.group = kGroup, args.p.group_scale = halves.data();
  } else {
    args.p.scale = scale.data(), args.p.scale_stride = 1;
  }
  if (scaling == TernaryScaling::kTwo) args.p.scale_neg = second.data();
  args.p.q = memory.fill(std::span(last)), args.p.a = a.data(), args.p.y = y.data(), args.p.y_stride = s.filters;
  const auto shared = std::make_unique<typename Tiles::Shared>();
  for (int64_t x = 0; x < Tiles::grid(args).x; ++x) Tiles::run({x, 0}, args, *shared);

  // The sums that have scales of their own: by group, by sign, or all.
  std::vector<std::vector<int64_t>> sums;
  if (scaling == TernaryScaling::kGroups) {
    for (int64_t group = 0; group < groups; ++group)
      sums.push_back(sums_where(q, t, s, [&](int64_t k, int8_t) { return k / kGroup == group; }));
  } else if (scaling == TernaryScaling::kTwo) {
    for (const int8_t sign : {int8_t{1}, int8_t{-1}})
      sums.push_back(sums_where(q, t, s, [&](int64_t, int8_t value) { return value == sign; }));
  } else {
    sums.push_back(ternary::oracle::conv_sums(q, t, s));
  }
  std::vector<float> expected;
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t n = i / static_cast<size_t>(s.positions()) % static_cast<size_t>(s.filters),
                 sample = i / static_cast<size_t>(s.positions() * s.filters);
    const auto scaled = [&](size_t part, float by) { return static_cast<float>(sums[part][i]) * a[sample] * by; };
    if (scaling == TernaryScaling::kGroups) {
      std::vector<int64_t> parts;
      std::vector<float> scales;
      for (size_t group = 0; group < sums.size(); ++group) {
        parts.push_back(sums[group][i]);
        scales.push_back(half_to_float(halves[group * static_cast<size_t>(s.filters) + n]));
      }
      expected.push_back(ternary::oracle::scaled_groups(parts, scales, a[sample]));
    } else {
      expected.push_back(scaling == TernaryScaling::kTwo ? scaled(0, scale[n]) + scaled(1, second[n]) : scaled(0, scale[n]));
    }
  }
  EXPECT_EQ(test::transposed(y, s.batch, g.positions(), s.filters), expected)
      << s.channels << " channels, " << s.filters << " filters, kernel " << s.kernel[0] << "x" << s.kernel[1] << "x"
      << s.kernel[2];
}

template <int kTiles, int kColumns, TernaryScaling kScaling>
void compare_gathered(const ConvShape& s) {
  compare_gathered<MmaTiles<kTiles, kColumns, kScaling, true>>(s, kScaling);
}

TEST(CudaTernaryConv, GatheredPatchesHaveTheSumsOfTheOracle) {
  for (const ConvShape& s : gathered_shapes()) {
    compare_gathered<2, 4, TernaryScaling::kOne>(s);
    compare_gathered<2, 8, TernaryScaling::kOne>(s);
    compare_gathered<4, 8, TernaryScaling::kOne>(s);
    compare_gathered<2, 4, TernaryScaling::kTwo>(s);
    compare_gathered<2, 8, TernaryScaling::kTwo>(s);
    compare_gathered<2, 4, TernaryScaling::kGroups>(s);
    compare_gathered<2, 8, TernaryScaling::kGroups>(s);
  }
}

TEST(CudaTernaryConv, OthersAreNotGathered) {
  EXPECT_FALSE(gathers_in_tiles(24, 1, 216)) << "a copy of 16 values would cross taps";
  EXPECT_FALSE(gathers_in_tiles(32, 2, 144));
  EXPECT_FALSE(gathers_in_tiles(16, 1, kMmaMaxDepth + 16));
}

}  // namespace
}  // namespace bitlab::kernels
