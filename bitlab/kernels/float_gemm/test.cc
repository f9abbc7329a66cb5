#include <array>
#include <bit>
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/conv_test_shapes.h"
#include "bitlab/kernels/float_conv/float_conv.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

AlignedBuffer packed_rows(std::span<const float> w, int64_t rows, int64_t depth) {
  AlignedBuffer panels = *AlignedBuffer::allocate(static_cast<size_t>(float_panel_bytes(rows, depth)));
  pack_float_rows(w.data(), rows, depth, reinterpret_cast<float*>(panels.data()));
  return panels;
}
const float* floats(const AlignedBuffer& buffer) { return reinterpret_cast<const float*>(buffer.data()); }

// Around the sizes of tiles (2, 4, 6 and 12 tokens; 16 to 128 rows) and of blocks (48 tokens, 128 rows, 256 k).
TEST(FloatGemm, EveryKernelSumsInTheOrderOfKAndIsNearTheExactSum) {
  const auto pool = make_thread_pool(2);
  for (const FloatGemmRow* row : test::runnable(float_gemm_kernels())) {
    for (int64_t tokens : {1, 2, 3, 5, 12, 23, 61})
      for (int64_t depth : {0, 1, 17, 100, 513})
        for (int64_t rows : {0, 1, 15, 16, 40, 130, 257}) {
          if (tokens * depth * rows > (row->needs.empty() ? 1 << 16 : 1 << 20)) continue;
          const auto x = test::random_floats(tokens * depth, 1), w = test::random_floats(rows * depth, 2),
                     b = test::random_floats(rows, 3);
          const AlignedBuffer panels = packed_rows(w, rows, depth);
          std::vector<float> y(static_cast<size_t>(tokens * rows));
          float_gemm(*row, {floats(panels), rows, depth, x.data(), depth, b.data(), y.data(), rows}, tokens, *pool);
          for (int64_t m = 0; m < tokens; ++m)
            for (int64_t n = 0; n < rows; ++n) {
              const float found = y[static_cast<size_t>(m * rows + n)];
              const auto xm = std::span(x).subspan(static_cast<size_t>(m * depth), static_cast<size_t>(depth)),
                         wn = std::span(w).subspan(static_cast<size_t>(n * depth), static_cast<size_t>(depth));
              ASSERT_EQ(found, test::fused_dot(xm, wn) + b[static_cast<size_t>(n)])
                  << row->name << " " << tokens << " " << rows << " " << depth;
              double exact = b[static_cast<size_t>(n)], magnitude = std::fabs(exact);
              for (size_t k = 0; k < xm.size(); ++k) {
                const double product = double{xm[k]} * double{wn[k]};
                exact += product;
                magnitude += std::fabs(product);
              }
              ASSERT_NEAR(found, exact, 2e-6 * magnitude) << row->name;
            }
        }
  }
}

// Ranges that begin and end within panels write nothing else, and a product in two parts is the product; panels may be a row-major transpose.
TEST(FloatGemm, PartsOfRowsAndOfKMakeTheWhole) {
  constexpr int64_t kTokens = 7, kRows = 48, kDepth = 37, kCut = 13;
  const auto x = test::random_floats(kTokens * kDepth, 1), w = test::random_floats(kRows * kDepth, 2);
  const auto columns = test::transposed(w, 1, kRows, kDepth);
  const AlignedBuffer panels = packed_rows(w, kRows, kDepth);
  std::vector<float> from_columns(static_cast<size_t>(kRows * kDepth));
  pack_float_columns(columns.data(), kRows, kDepth, from_columns.data());
  EXPECT_TRUE(test::same_bits({floats(panels), from_columns.size()}, from_columns));
  for (const FloatGemmRow* row : test::runnable(float_gemm_kernels())) {
    std::vector<float> whole(kTokens * kRows), parts(kTokens * kRows, -7);
    FloatGemmArgs args{floats(panels), kRows, kDepth, x.data(), kDepth, nullptr, whole.data(), kRows};
    row->run(args, 0, kTokens, 0, kRows);
    args.y = parts.data();
    row->run(args, 0, kTokens, 5, 21);
    for (int64_t i = 0; i < kTokens * kRows; ++i) {
      const bool inside = i % kRows >= 5 && i % kRows < 21;
      ASSERT_EQ(parts[static_cast<size_t>(i)], inside ? whole[static_cast<size_t>(i)] : -7.0F) << row->name << " " << i;
    }
    args.panels = columns.data(), args.k_stride = kRows, args.panel_stride = kFloatPanel, args.depth = kCut;
    row->run(args, 0, kTokens, 0, kRows);
    args.first = kCut, args.x += kCut, args.depth = kDepth - kCut, args.continues = true;
    row->run(args, 0, kTokens, 0, kRows);
    EXPECT_TRUE(test::same_bits(parts, whole)) << row->name;
  }
}

// The last panel is as wide as its rows; a page that faults lies behind it, and behind x.
TEST(FloatGemm, ReadsNothingBehindItsPanels) {
  for (const FloatGemmRow* row : test::runnable(float_gemm_kernels()))
    for (int64_t rows : {1, 3, 15, 16, 17, 35})
      for (int64_t depth : {1, 2, 9, 40})
        for (int64_t tokens : {1, 2, 4, 13}) {
          const auto x = test::random_floats(tokens * depth, 1), w = test::random_floats(rows * depth, 2);
          test::GuardedBytes panels(static_cast<size_t>(float_panel_bytes(rows, depth))), in(x.size() * sizeof(float));
          pack_float_rows(w.data(), rows, depth, panels.as<float>());
          std::vector<float> y(static_cast<size_t>(tokens * rows));
          row->run({panels.as<float>(), rows, depth, in.fill<float>(x), depth, nullptr, y.data(), rows}, 0, tokens, 0, rows);
          for (int64_t m = 0; m < tokens; ++m)
            for (int64_t n = 0; n < rows; ++n) {
              const auto xm = std::span(x).subspan(static_cast<size_t>(m * depth), static_cast<size_t>(depth)),
                         wn = std::span(w).subspan(static_cast<size_t>(n * depth), static_cast<size_t>(depth));
              ASSERT_EQ(y[static_cast<size_t>(m * rows + n)], test::fused_dot(xm, wn)) << row->name << " " << rows;
              for (int64_t k = 0; k < depth; ++k)
                ASSERT_EQ(panels.as<float>()[float_panel_index(rows, depth, n, k)], wn[static_cast<size_t>(k)]);
            }
        }
}

// Infinities of both signs, NaN of any bits: one NaN. Products are not rounded, and tiny sums are kept.
TEST(FloatGemm, RoundsOncePerStepAndKnowsOneNan) {
  const float inf = INFINITY, nan = std::bit_cast<float>(0xFFC12345U), tiny = 1.5F * 0x1p-140F, over = 1 + 0x1p-23F;
  const std::vector<std::pair<std::array<float, 2>, std::array<float, 2>>> cases = {{{inf, -inf}, {1, 1}},
                                                                                    {{inf, 1}, {0, 1}},
                                                                                    {{nan, 1}, {1, 1}},
                                                                                    {{inf, 3}, {1, 1}},
                                                                                    {{tiny, tiny}, {1, 2}},
                                                                                    {{over, -1}, {over, 1}},
                                                                                    {{0x1p127F, -0x1p127F}, {4, 4}}};
  for (const FloatGemmRow* row : test::runnable(float_gemm_kernels()))
    for (const auto& [x, w] : cases) {
      const AlignedBuffer panels = packed_rows(w, 1, 2);
      float y = 0;
      row->run({floats(panels), 1, 2, x.data(), 2, nullptr, &y, 1}, 0, 1, 0, 1);
      float expected = std::fma(x[1], w[1], std::fma(x[0], w[0], 0.0F));
      if (std::isnan(expected)) expected = std::bit_cast<float>(0x7FC00000U);
      EXPECT_TRUE(test::same_bits({&y, 1}, {&expected, 1})) << row->name << ": " << y << ", expected " << expected;
    }
}

// Integer-valued floats sum exactly, so the oracle's integer sums are the answer in every order.
TEST(FloatConv, EqualsTheOracleOnIntegers) {
  for (const ternary::oracle::ConvShape& s : test::conv_shapes()) {
    const ConvGeometry g = test::geometry_of(s);
    const auto q = test::random_int8(g.batch * g.sample_values(), 1, -127, 127),
               t = test::random_int8(s.filters * g.depth(), 2, -1, 1);
    const auto last = test::transposed(q, g.batch, g.channels, g.pixels());
    const std::vector<float> x(last.begin(), last.end()), w(t.begin(), t.end());
    std::vector<float> y(static_cast<size_t>(g.batch * g.positions() * s.filters));
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(float_conv_scratch_bytes(g, 2)));
    const AlignedBuffer panels = packed_rows(w, s.filters, g.depth());
    float_conv(**select(float_gemm_kernels(), this_machine(), {}), floats(panels), nullptr, s.filters, g, x.data(), y.data(),
               scratch.data(), *make_thread_pool(2));
    const auto sums = ternary::oracle::conv_sums(q, t, s);
    EXPECT_EQ(test::transposed(y, g.batch, g.positions(), s.filters), std::vector<float>(sums.begin(), sums.end()));
  }
}

TEST(FloatGemmList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(float_gemm_kernels().rows.size(), 4U); }

}  // namespace
}  // namespace bitlab::kernels
