#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

TEST(TernaryEmbedding, GivesCodeTimesScale) {
  for (int64_t depth : {0, 1, 4, 5, 130, 257})
    for (int64_t group : {0, 64, -1}) {  // -1: two scales
      constexpr int64_t kRows = 75;      // more than a block of the product's layout
      const bool two = group == -1;
      if (two) group = 0;
      const int64_t groups = group == 0 ? 1 : (depth + group - 1) / group;
      const auto t = test::random_int8(kRows * depth, 1, -1, 1);
      const auto codes = test::packed(t, kRows, depth);
      const auto scale = test::random_floats(kRows, 2), scale_neg = test::random_floats(kRows, 5);
      std::vector<uint16_t> halves;
      for (float s : test::random_floats(kRows * groups, 3)) halves.push_back(float_to_half(s));
      const std::vector<int64_t> index{74, 0, 3, 3, 7, 0, 1, 2, 64, 5, 63, 8, 9, 10, 10, 0, 5, 2, 1};
      std::vector<float> y(index.size() * static_cast<size_t>(depth));
      // The layout of a table, and those of products which read the same weight, its scales of groups turned.
      for (const auto layout : {TernaryLayout::kRows, TernaryLayout::kVn, TernaryLayout::kMma}) {
        const bool turned = layout != TernaryLayout::kRows;
        const auto packed = pack_ternary(codes, kRows, depth, layout).value();
        const AlignedBuffer turned_halves = pack_group_scales(halves, kRows, groups).value();
        TernaryTable table{&packed, scale.data(), 1, two ? scale_neg.data() : nullptr, group, halves.data(), groups, 1};
        if (turned) {
          table.group_scale = reinterpret_cast<const uint16_t*>(turned_halves.data());
          table.group_row_stride = 1, table.group_stride = kRows;
        }
        ASSERT_TRUE(ternary_embedding("test", table, index.data(), static_cast<int64_t>(index.size()), y.data(),
                                      *make_thread_pool(2))
                        .ok());
        for (size_t i = 0; i < index.size(); ++i)
          for (int64_t k = 0; k < depth; ++k) {
            const auto row = static_cast<size_t>(index[i]);
            const int8_t code = t[row * static_cast<size_t>(depth) + static_cast<size_t>(k)];
            const float s = two && code < 0 ? scale_neg[row]
                            : group == 0
                                ? scale[row]
                                : half_to_float(halves[row * static_cast<size_t>(groups) + static_cast<size_t>(k / group)]);
            const float expected = static_cast<float>(code) * s;
            const float found = y[i * static_cast<size_t>(depth) + static_cast<size_t>(k)];
            ASSERT_TRUE(test::same_bits({&found, 1}, {&expected, 1})) << expected;
          }
      }
    }
}

TEST(TernaryEmbedding, OfInt8) {
  constexpr int64_t kRows = 70, kDepth = 37;
  const auto t = test::random_int8(kRows * kDepth, 1, -127, 127);
  const auto scale = test::random_floats(kRows, 2);
  const std::vector<int64_t> index{69, 0, 63, 64};
  for (const int64_t stride : {0, 1})
    for (const bool as_table : {true, false}) {
      std::vector<float> y(index.size() * kDepth);
      const auto packed = pack_int8_weight(t, kRows, kDepth, as_table).value();
      const TernaryTable table{.weights = &packed, .scale = scale.data(), .scale_stride = stride};
      ASSERT_TRUE(ternary_embedding("test", table, index.data(), 4, y.data(), *make_thread_pool(2)).ok());
      for (size_t i = 0; i < y.size(); ++i) {
        const auto row = static_cast<size_t>(index[i / kDepth]);
        EXPECT_EQ(y[i], static_cast<float>(t[row * kDepth + i % kDepth]) * scale[stride == 0 ? 0 : row]);
      }
    }
}

TEST(TernaryEmbedding, RefusesAnIndexOutsideOfTheTable) {
  const auto packed = pack_ternary(std::vector<uint8_t>{0x55, 0x55}, 2, 4, TernaryLayout::kRows).value();
  const float scale = 1;
  const TernaryTable table{&packed, &scale};
  float y[8];
  for (int64_t bad : {int64_t{2}, int64_t{-1}}) {
    const int64_t index[2] = {1, bad};
    const Status status = ternary_embedding("ternary_embedding", table, index, 2, y, *make_thread_pool(1));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().message, fmt::format("[ternary_embedding] indices in [0, 2), got {} (token=1)", bad));
  }
}

TEST(Half, ConvertsEveryValueThereAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (value != value) {
      EXPECT_EQ(float_to_half(value) & 0x7C00, 0x7C00);
      continue;
    }
    ASSERT_EQ(float_to_half(value), half);
  }
  EXPECT_EQ(float_to_half(65519.0F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F), 0x3C00);      // a tie, to even
  EXPECT_EQ(float_to_half(1.0F + 3 * 0x1p-11F), 0x3C02);  // a tie, to even
  EXPECT_EQ(float_to_half(0x1p-25F), 0x0000);             // a tie, to zero
  EXPECT_EQ(float_to_half(-0x1.8p-25F), 0x8001);
  EXPECT_EQ(half_to_float(0x3555), 0.333251953125F);  // 1/3 in binary16
}

}  // namespace
}  // namespace bitlab::kernels
