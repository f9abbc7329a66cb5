// One suite for every row of kernels.def: exact sums against int64, the contract's epilogue bit by bit.
#include <tuple>

#include <gtest/gtest.h>

#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using test::GuardedBytes;

struct Problem {
  int64_t tokens, rows, depth;
};

enum class Values { kRandom, kWorst };

// Everything that a call needs, in memory that faults behind its end, and the oracle's answer.
class Case {
 public:
  Case(const TernaryGemmRow& row, Problem p, Values values, bool per_channel, bool with_bias)
      : p_(p),
        stride_(round_up(p.depth, kVnStep)),
        q_memory_(static_cast<size_t>(p.tokens * stride_)),
        y_memory_(static_cast<size_t>(p.tokens * p.rows) * sizeof(float)),
        weight_memory_(static_cast<size_t>(packed_bytes(p.rows, p.depth, row.layout))) {
    const auto seed = static_cast<uint32_t>(p.tokens * 7919 + p.rows * 104729 + p.depth);
    const bool worst = values == Values::kWorst;
    std::vector<int8_t> q = worst ? std::vector<int8_t>(static_cast<size_t>(p.tokens * p.depth), 127)
                                  : test::random_int8(p.tokens * p.depth, seed, -127, 127);
    std::vector<int8_t> t = worst ? std::vector<int8_t>(static_cast<size_t>(p.rows * p.depth), 1)
                                  : test::random_int8(p.rows * p.depth, seed + 1, -1, 1);
    if (worst)  // all signs: rows of +1 and of -1, tokens of +127 and of -127
      for (size_t i = 0; i < t.size(); ++i) t[i] = static_cast<int8_t>(static_cast<int64_t>(i) / p.depth % 2 == 0 ? 1 : -1);
    if (worst)
      for (size_t i = 0; i < q.size(); ++i)
        q[i] = static_cast<int8_t>(static_cast<int64_t>(i) / p.depth % 3 == 2 ? -127 : 127);
    scale_ = test::random_floats(per_channel ? p.rows : 1, seed + 2, 0.1F);
    bias_ = with_bias ? test::random_floats(p.rows, seed + 3) : std::vector<float>();
    a_ = test::random_floats(p.tokens, seed + 4, 0.01F);
    auto* q_padded = q_memory_.as<int8_t>();
    for (int64_t m = 0; m < p.tokens; ++m)
      std::memcpy(q_padded + m * stride_, q.data() + m * p.depth, static_cast<size_t>(p.depth));
    const auto codes = test::packed(t, p.rows, p.depth);
    const PackedTernary weights = *pack_ternary(codes, p.rows, p.depth, row.layout);
    const uint8_t* w = weight_memory_.fill<uint8_t>(weights.data.bytes());
    args_ = {w,
             p.rows,
             p.depth,
             q_padded,
             stride_,
             a_.data(),
             1,
             scale_.data(),
             per_channel ? 1 : 0,
             with_bias ? bias_.data() : nullptr,
             y_memory_.as<float>(),
             p.rows};
    for (int64_t m = 0; m < p.tokens; ++m)
      for (int64_t n = 0; n < p.rows; ++n) {
        const int64_t acc =
            ternary::oracle::dot(std::span(t).subspan(static_cast<size_t>(n * p.depth), static_cast<size_t>(p.depth)),
                                 std::span(q).subspan(static_cast<size_t>(m * p.depth), static_cast<size_t>(p.depth)));
        expected_.push_back(ternary::oracle::epilogue(acc, a_[static_cast<size_t>(m)],
                                                      scale_[per_channel ? static_cast<size_t>(n) : 0],
                                                      with_bias ? &bias_[static_cast<size_t>(n)] : nullptr));
      }
  }

  const TernaryGemmArgs& args() const { return args_; }
  bool holds() { return test::same_bits({args_.y, expected_.size()}, expected_); }
  void clear() { std::memset(args_.y, 0xFF, expected_.size() * sizeof(float)); }

 private:
  Problem p_;
  int64_t stride_;
  GuardedBytes q_memory_, y_memory_, weight_memory_;
  std::vector<float> scale_, bias_, a_, expected_;
  TernaryGemmArgs args_{};
};

class EveryTernaryGemm : public ::testing::TestWithParam<size_t> {
 protected:
  const TernaryGemmRow& row() const { return ternary_gemm_rows()[GetParam()]; }
  void SetUp() override {
    if (row().run == nullptr) GTEST_SKIP() << row().name << " is not part of this build";
    const FeatureSet missing = row().needs.minus(this_machine().features);
    if (!missing.empty()) GTEST_SKIP() << "this machine lacks " << missing.to_string();
  }
  void check(Problem p, Values values, bool per_channel, bool with_bias) {
    Case c(row(), p, values, per_channel, with_bias);
    row().run(c.args(), 0, p.tokens, 0, p.rows);
    EXPECT_TRUE(c.holds()) << "tokens=" << p.tokens << " rows=" << p.rows << " depth=" << p.depth
                           << " worst=" << (values == Values::kWorst) << " channel=" << per_channel << " bias=" << with_bias;
  }
};

constexpr int64_t kEdges[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 257};

// Sums of scaled codes, and sums of biased codes, pass 2^31 here.
TEST_P(EveryTernaryGemm, IsExactAtDepthsWherePartialSumsWrap) {
  const int64_t depth = row().layout == TernaryLayout::kRows ? 1 << 16 : (1 << 20) + 5;
  for (int64_t tokens : {1, 2}) check({tokens, 9, depth}, Values::kWorst, true, true);
}

// Each edge in each dimension, every pair of dimensions once.
TEST_P(EveryTernaryGemm, IsExactOverEdgeShapes) {
  int i = 0;
  for (int64_t a : kEdges)
    for (int64_t b : kEdges) {
      const int64_t c = kEdges[static_cast<size_t>(i++) % std::size(kEdges)];
      check({std::min<int64_t>(a, 65), b, c}, Values::kRandom, i % 2 == 0, i % 3 != 0);
      check({std::min<int64_t>(c, 65), a, b}, Values::kWorst, i % 2 == 1, i % 3 == 0);
    }
}

TEST_P(EveryTernaryGemm, IsExactOnTheWorstCaseOfDeepSums) {
  for (int64_t depth : {255, 256, 257, 1000, 4097, 8640, 16384, 65536})
    for (int64_t tokens : {1, 2, 5}) check({tokens, 9, depth}, Values::kWorst, true, true);
}

TEST_P(EveryTernaryGemm, IsExactOnLargeRandomProblems) {
  check({1, 1000, 2048}, Values::kRandom, true, false);
  check({66, 200, 1000}, Values::kRandom, false, true);
}

TEST_P(EveryTernaryGemm, GivesTheSameBitsForEverySplitAndThreadCount) {
  const Problem p{150, 333, 500};
  Case c(row(), p, Values::kRandom, true, true);
  for (int threads : {1, 2, 3}) {
    c.clear();
    ternary_gemm(row(), c.args(), p.tokens, *make_thread_pool(threads));
    EXPECT_TRUE(c.holds()) << threads << " threads";
  }
  c.clear();
  for (int64_t m = 0; m < p.tokens; m += 37)
    for (int64_t n = 0; n < p.rows; n += 64) row().run(c.args(), m, std::min(m + 37, p.tokens), n, std::min(n + 64, p.rows));
  EXPECT_TRUE(c.holds());
}

TEST_P(EveryTernaryGemm, ReadsAndWritesStridedMemory) {
  const Problem p{5, 19, 40};
  Case c(row(), p, Values::kRandom, false, true);
  constexpr int64_t kStride = 23;
  std::vector<float> wide(static_cast<size_t>(p.tokens * kStride), 77.0F);
  TernaryGemmArgs args = c.args();
  args.y = wide.data();
  args.y_stride = kStride;
  row().run(args, 0, p.tokens, 0, p.rows);
  row().run(c.args(), 0, p.tokens, 0, p.rows);
  for (int64_t m = 0; m < p.tokens; ++m) {
    EXPECT_TRUE(test::same_bits({wide.data() + m * kStride, static_cast<size_t>(p.rows)},
                                {c.args().y + m * p.rows, static_cast<size_t>(p.rows)}));
    for (int64_t n = p.rows; n < kStride; ++n) EXPECT_EQ(wide[static_cast<size_t>(m * kStride + n)], 77.0F);
  }
}

TEST_P(EveryTernaryGemm, SharesOneActivationScaleWhereTheStrideIsZero) {
  const Problem p{3, 5, 33};
  Case c(row(), p, Values::kRandom, true, false);
  TernaryGemmArgs args = c.args();
  std::vector<float> same(3, args.a[0]), first(15), second(15);
  args.y = first.data();
  args.a_stride = 0;
  row().run(args, 0, 3, 0, 5);
  args.y = second.data();
  args.a = same.data();
  args.a_stride = 1;
  row().run(args, 0, 3, 0, 5);
  EXPECT_TRUE(test::same_bits(first, second));
}

INSTANTIATE_TEST_SUITE_P(TernaryGemm, EveryTernaryGemm, ::testing::Range<size_t>(0, ternary_gemm_rows().size()),
                         [](const auto& param) { return std::string(ternary_gemm_rows()[param.param].name); });

TEST(Pack, TheVnLayoutIsAsDocumented) {
  constexpr int64_t kRows = 75, kDepth = 37;
  const auto t = test::random_int8(kRows * kDepth, 5, -1, 1);
  const PackedTernary w = *pack_ternary(test::packed(t, kRows, kDepth), kRows, kDepth, TernaryLayout::kVn);
  ASSERT_EQ(w.data.size(), 80U * 48 / 4);  // rows in units of 8, depth in steps of 16, four codes a byte
  for (int64_t n = 0; n < 80; ++n)
    for (int64_t k = 0; k < 48; ++k) {
      const int64_t block = n / 64, units = block == 0 ? 8 : 2, unit = n % 64 / 8, r = n % 8;
      const int64_t step = k / 16, f = k % 16 / 4, j = k % 4;
      const uint8_t byte = w.data.data()[block * 64 * 48 / 4 + (step * units + unit) * 32 + 4 * r + j];
      const int expected = n < kRows && k < kDepth ? t[static_cast<size_t>(n * kDepth + k)] + 1 : 1;
      ASSERT_EQ((byte >> (2 * f)) & 3, expected) << n << " " << k;
    }
}

TEST(Pack, StaysNearTwoBitsAWeight) {
  EXPECT_LE(packed_bytes(2048, 2048, TernaryLayout::kVn) * 8, 2048 * 2048 * 2);
  EXPECT_LE(static_cast<double>(packed_bytes(10, 512, TernaryLayout::kVn)) * 8 / (10 * 512), 3.2);
}

const Machine kPlain{"plain", {}, 1, 32 << 10, 1 << 20, 0};
const Machine kHaswell{"haswell", {Feature::avx2, Feature::fma}, 4, 32 << 10, 1 << 18, 8 << 20};

TEST(Selection, IsAFunctionOfTheMachine) {
  EXPECT_EQ(*select_ternary_layout(64, 64, kPlain, {}), TernaryLayout::kRows);
  EXPECT_STREQ((*select_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kPlain, {}))->name, "reference");
#if defined(__x86_64__)
  EXPECT_EQ(*select_ternary_layout(64, 64, kHaswell, {}), TernaryLayout::kVn);
  EXPECT_STREQ((*select_ternary_gemm({1, 64, 64}, TernaryLayout::kVn, kHaswell, {}))->name, "x86_avx2");
#endif
}

TEST(Selection, EveryRowGetsAVerdictWithAReason) {
  const auto on_plain = explain_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kPlain, {});
  ASSERT_EQ(on_plain.verdicts.size(), ternary_gemm_rows().size());
  EXPECT_EQ(on_plain.verdicts[0].verdict, Verdict::kChosen);
#if defined(__x86_64__)
  EXPECT_EQ(on_plain.verdicts[1].verdict, Verdict::kMissingFeature);
  EXPECT_EQ(on_plain.verdicts[1].reason, "the machine lacks avx2");
  const auto on_haswell = explain_ternary_gemm({1, 64, 64}, TernaryLayout::kVn, kHaswell, {});
  EXPECT_EQ(on_haswell.verdicts[0].verdict, Verdict::kLayoutMismatch);
#endif
}

TEST(Selection, ThePolicyRestrictsAndFailsWithTheVerdicts) {
  EXPECT_EQ(*select_ternary_layout(64, 64, kHaswell, {"ternary_gemm:reference"}), TernaryLayout::kRows);
  const auto none = select_ternary_layout(64, 64, kHaswell, {"ternary_gemm:sve"});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNoKernel);
  std::string expected = "[ternary_gemm] a kernel for tokens=1 rows=64 depth=64, got none: ";
  for (const TernaryGemmRow& row : ternary_gemm_rows())
    expected += fmt::format("{}{}: DisabledByPolicy (restricted to 'ternary_gemm:sve')",
                            &row == &ternary_gemm_rows()[0] ? "" : "; ", row.name);
  EXPECT_EQ(none.error().message, expected);
  EXPECT_TRUE((Policy{"float_gemm:reference"}.allows("ternary_gemm", "x86_avx2")));
}

TEST(TernaryGemmList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(ternary_gemm_rows().size(), 5U); }

}  // namespace
}  // namespace bitlab::kernels
