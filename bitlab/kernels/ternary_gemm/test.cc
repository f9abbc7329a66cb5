// One suite for every row of kernels.def: exact sums against int64, the contract's epilogue bit by bit, in memory that faults behind its end.
#include <cstdlib>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

namespace oracle = ternary::oracle;
using test::GuardedBytes;

struct Problem {
  int64_t tokens, rows, depth;
};

enum class Values { kRandom, kWorst };
enum class Scaling { kTensor, kChannel, kAsymmetric, kGroup64, kGroup128, kGroup256 };
enum class Output { kFloat, kInt8, kInt4 };

struct Variant {
  Values values = Values::kRandom;
  Scaling scaling = Scaling::kChannel;
  Output output = Output::kFloat;
  bool bias = true, affine = false, relu = false, residual = false, clamps = false;
  int64_t q_gap = 0, y_gap = 0;  // elements between rows

  // Runs through all values of each field, with periods that have no common factor.
  static Variant number(int i) {
    return {i % 2 == 0 ? Values::kRandom : Values::kWorst,
            static_cast<Scaling>(i % 13 < 6 ? i % 13 : i % 2),
            static_cast<Output>(i % 7 < 4   ? 0
                                : i % 7 < 6 ? 1
                                            : 2),
            i % 3 != 0,
            i % 5 == 1,
            i % 5 == 2 || i % 11 == 0,
            i % 3 == 1,
            i % 4 == 1,
            i % 4 == 3 ? 7 : 0,
            i % 9 == 4 ? 3 : 0};
  }
};

std::ostream& operator<<(std::ostream& out, const Variant& v) {
  return out << "worst=" << (v.values == Values::kWorst) << " scaling=" << static_cast<int>(v.scaling)
             << " output=" << static_cast<int>(v.output) << " bias=" << v.bias << " affine=" << v.affine
             << " relu=" << v.relu << " residual=" << v.residual << " clamps=" << v.clamps << " q_gap=" << v.q_gap
             << " y_gap=" << v.y_gap;
}

template <class T>
std::span<const T> slice(const std::vector<T>& values, int64_t begin, int64_t count) {
  return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
}

// All |q| are 127 and all |t| are 1: rows of +1, of -1 and of both; tokens likewise.
std::vector<int8_t> worst_values(int64_t outer, int64_t depth, int value) {
  std::vector<int8_t> values(static_cast<size_t>(outer * depth));
  for (int64_t i = 0; i < outer; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      const bool negative = i % 3 == 0 ? false : i % 3 == 1 ? true : k % 2 == 1;
      values[static_cast<size_t>(i * depth + k)] = static_cast<int8_t>(negative ? -value : value);
    }
  return values;
}

// Everything that a call needs, and the oracle's answer.
class GemmCase {
 public:
  GemmCase(const TernaryGemmRow& row, Problem p, const Variant& v)
      : row_(row),
        p_(p),
        v_(v),
        group_(v.scaling == Scaling::kGroup64    ? 64
               : v.scaling == Scaling::kGroup128 ? 128
               : v.scaling == Scaling::kGroup256 ? 256
                                                 : 0),
        q_stride_(round_up(p.depth, kVnStep) + v.q_gap),
        y_stride_(p.rows + v.y_gap),
        y_bytes_(static_cast<size_t>((p.tokens - 1) * y_stride_ + p.rows) *
                 (v.output == Output::kFloat ? sizeof(float) : 1)),
        q_memory_(static_cast<size_t>(p.tokens * q_stride_ - v.q_gap)),
        y_memory_(y_bytes_),
        weight_memory_(static_cast<size_t>(packed_bytes(p.rows, p.depth, row.layout))),
        scratch_(static_cast<size_t>(ternary_gemm_scratch_bytes(row, p.depth, group_))) {
    const auto seed = static_cast<uint32_t>(p.tokens * 7919 + p.rows * 104729 + p.depth);
    const bool is_worst = v.values == Values::kWorst;
    q_ = is_worst ? worst_values(p.tokens, p.depth, 127) : test::random_int8(p.tokens * p.depth, seed, -127, 127);
    t_ = is_worst ? worst_values(p.rows, p.depth, 1) : test::random_int8(p.rows * p.depth, seed + 1, -1, 1);
    for (int8_t t : t_) t_positive_.push_back(std::max<int8_t>(t, 0));
    const bool per_tensor = v.scaling == Scaling::kTensor;
    scale_ = test::random_floats(per_tensor ? 1 : p.rows, seed + 2, 0.1F);
    scale_neg_ = test::random_floats(static_cast<int64_t>(scale_.size()), seed + 7, 0.1F);
    bias_ = test::random_floats(p.rows, seed + 3);
    alpha_ = test::random_floats(p.rows, seed + 5);
    beta_ = test::random_floats(p.rows, seed + 6);
    a_ = test::random_floats(p.tokens, seed + 4, 0.01F);
    residual_ = test::random_floats(p.tokens * y_stride_, seed + 9);
    if (group_ != 0) {
      groups_ = ceil_div(p.depth, group_);
      for (float s : test::random_floats(p.rows * groups_, seed + 8, 0.1F)) group_scale_.push_back(float_to_half(s));
      for (uint16_t s : group_scale_) wide_group_scale_.push_back(half_to_float(s));
      packed_scale_ = *pack_group_scales(group_scale_, p.rows, groups_);
    }
    auto* q_padded = q_memory_.as<int8_t>();
    for (int64_t m = 0; m < p.tokens; ++m)
      std::memcpy(q_padded + m * q_stride_, q_.data() + m * p.depth, static_cast<size_t>(p.depth));
    const PackedTernary weights = *pack_ternary(test::packed(t_, p.rows, p.depth), p.rows, p.depth, row.layout);
    args_ = {.weights = weight_memory_.fill<uint8_t>(weights.data.bytes()),
             .rows = p.rows,
             .depth = p.depth,
             .scale = scale_.data(),
             .scale_stride = per_tensor ? 0 : 1,
             .scale_neg = v.scaling == Scaling::kAsymmetric ? scale_neg_.data() : nullptr,
             .group = group_,
             .group_scale = reinterpret_cast<const uint16_t*>(packed_scale_.data()),
             .q = q_padded,
             .q_stride = q_stride_,
             .a = a_.data(),
             .a_stride = 1,
             .bias = v.bias ? bias_.data() : nullptr,
             .alpha = v.affine ? alpha_.data() : nullptr,
             .beta = v.affine ? beta_.data() : nullptr,
             .residual = v.residual ? residual_.data() : nullptr,
             .relu = v.relu,
             .clamps = v.clamps,
             .low = -0.5F,
             .high = 0.25F,
             .y = v.output == Output::kFloat ? y_memory_.as<float>() : nullptr,
             .y_q = v.output == Output::kFloat ? nullptr : y_memory_.as<int8_t>(),
             .y_inv = 3.7F,
             .y_limit = v.output == Output::kInt4 ? 7.0F : 127.0F,
             .y_stride = y_stride_};
    clear();
    expected_.assign(y_memory_.as<uint8_t>(), y_memory_.as<uint8_t>() + y_bytes_);
    for (int64_t m = 0; m < p.tokens; ++m)
      for (int64_t n = 0; n < p.rows; ++n) expect(m, n);
  }

  const TernaryGemmArgs& args() const { return args_; }
  uint8_t* scratch() { return scratch_.as<uint8_t>(); }
  void run() { row_.run(args_, 0, p_.tokens, 0, p_.rows, scratch()); }
  // Also the gaps between rows are untouched.
  bool holds() { return std::memcmp(y_memory_.as<uint8_t>(), expected_.data(), y_bytes_) == 0; }
  void clear() {
    std::memset(y_memory_.as<uint8_t>(), 0xFF, y_bytes_);
    std::memset(scratch(), 0xFF, static_cast<size_t>(ternary_gemm_scratch_bytes(row_, p_.depth, group_)));
  }

 private:
  float scaled(int64_t m, int64_t n) {
    const auto t = slice(t_, n * p_.depth, p_.depth), q = slice(q_, m * p_.depth, p_.depth);
    const float a = a_[static_cast<size_t>(m)];
    if (group_ != 0) {
      acc_.clear();
      for (int64_t g = 0; g < groups_; ++g) {
        const auto begin = static_cast<size_t>(g * group_), count = std::min(t.size() - begin, static_cast<size_t>(group_));
        acc_.push_back(oracle::dot(t.subspan(begin, count), q.subspan(begin, count)));
      }
      return oracle::scaled_groups(acc_, slice(wide_group_scale_, n * groups_, groups_), a);
    }
    const size_t at = args_.scale_stride == 0 ? 0 : static_cast<size_t>(n);
    if (args_.scale_neg == nullptr) return oracle::epilogue(oracle::dot(t, q), a, scale_[at], nullptr);
    const int64_t positive = oracle::dot(slice(t_positive_, n * p_.depth, p_.depth), q);
    return oracle::scaled_asymmetric(positive, positive - oracle::dot(t, q), a, scale_[at], scale_neg_[at]);
  }
  void expect(int64_t m, int64_t n) {
    const auto i = static_cast<size_t>(n);
    float y = scaled(m, n);
    if (v_.bias) y = y + bias_[i];
    if (v_.affine) {
      y = y * alpha_[i];
      y = y + beta_[i];
    }
    const auto at = static_cast<size_t>(m * y_stride_ + n);
    if (v_.residual) y = y + residual_[at];
    if (v_.relu) y = y < 0 ? 0 : y;
    if (v_.clamps) y = std::clamp(y, -0.5F, 0.25F);
    if (v_.output == Output::kFloat) {
      std::memcpy(expected_.data() + at * sizeof(float), &y, sizeof(y));
    } else {
      expected_[at] = static_cast<uint8_t>(oracle::requantize(y, args_.y_inv, args_.y_limit));
    }
  }

  const TernaryGemmRow& row_;
  Problem p_;
  Variant v_;
  int64_t group_, groups_ = 0, q_stride_, y_stride_;
  size_t y_bytes_;
  GuardedBytes q_memory_, y_memory_, weight_memory_, scratch_;
  std::vector<int8_t> q_, t_, t_positive_;  // t, and its part above 0
  std::vector<float> scale_, scale_neg_, bias_, alpha_, beta_, a_, residual_;
  std::vector<uint16_t> group_scale_;
  std::vector<float> wide_group_scale_;  // the same
  std::vector<int64_t> acc_;             // of one output's groups
  AlignedBuffer packed_scale_;
  std::vector<uint8_t> expected_;
  TernaryGemmArgs args_{};
};

class EveryTernaryGemm : public ::testing::TestWithParam<size_t> {
 protected:
  const TernaryGemmRow& row() const { return ternary_gemm_kernels().rows[GetParam()]; }
  void SetUp() override {
    if (const std::string reason = test::why_not_here(row()); !reason.empty()) GTEST_SKIP() << reason;
  }
  // What a row does not serve, it is asked for in the plain form.
  Variant served(Variant v) const {
    if (row().serves == TernaryGemmServes::kPlainOnly && v.scaling > Scaling::kChannel) v.scaling = Scaling::kChannel;
    return v;
  }
  void check(Problem p, const Variant& asked) {
    const Variant v = served(asked);
    GemmCase c(row(), p, v);
    c.run();
    EXPECT_TRUE(c.holds()) << "tokens=" << p.tokens << " rows=" << p.rows << " depth=" << p.depth << " " << v;
  }
};

constexpr int64_t kGemmEdges[] = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 257, 1000, 8640};

// Each edge in each dimension, every pair of dimensions once; the third dimension takes turns among the edges that keep the oracle quick.
TEST_P(EveryTernaryGemm, IsExactOverEdgeShapes) {
  constexpr int64_t kMostWeights = 12'000'000, kMostProducts = 500'000;
  int i = 0;
  const auto third = [&](int64_t a, int64_t b) {
    for (size_t n = 0; n < std::size(kGemmEdges); ++n) {
      const int64_t c = kGemmEdges[(static_cast<size_t>(i) + n) % std::size(kGemmEdges)];
      if (a * b * c <= kMostProducts) return c;
    }
    return kGemmEdges[0];
  };
  for (int64_t a : kGemmEdges)
    for (int64_t b : kGemmEdges) {
      if (a * b > kMostWeights) continue;  // 8640 x 8640
      check({a, b, third(a, b)}, Variant::number(i++));
      check({third(a, b), a, b}, Variant::number(i++));
      check({a, third(a, b), b}, Variant::number(i++));
    }
}

// Every triple of edges that is not absurdly large: hours for all rows, so only where BITLAB_TEST_FULL is set (make test-full).
TEST_P(EveryTernaryGemm, IsExactOverTheCubeOfEdges) {
  if (std::getenv("BITLAB_TEST_FULL") == nullptr) GTEST_SKIP() << "the cube of shapes is for make test-full";
  constexpr int64_t kMostProducts = 300'000'000;
  int i = 0;
  for (int64_t a : kGemmEdges)
    for (int64_t b : kGemmEdges)
      for (int64_t c : kGemmEdges)
        if (a * b * c <= kMostProducts) check({a, b, c}, Variant::number(i++));
}

// Sums of scaled codes, and sums of biased codes, pass 2^31 here.
TEST_P(EveryTernaryGemm, IsExactAtDepthsWherePartialSumsWrap) {
  const int64_t depth = row().layout == TernaryLayout::kRows ? 1 << 16 : (1 << 20) + 5;
  for (int64_t tokens : {1, 2})
    for (Scaling scaling : {Scaling::kChannel, Scaling::kAsymmetric})
      check({tokens, 9, depth}, {.values = Values::kWorst, .scaling = scaling});
}

TEST_P(EveryTernaryGemm, IsExactOnTheWorstCaseOfDeepSums) {
  for (int64_t depth : {256, 4097, 16384, 65536})
    for (int64_t tokens : {1, 2, 5})
      for (Scaling scaling : {Scaling::kTensor, Scaling::kAsymmetric, Scaling::kGroup128})
        check({tokens, 9, depth}, {.values = Values::kWorst, .scaling = scaling});
  check({67, 70, 16384}, {.values = Values::kWorst});
}

TEST_P(EveryTernaryGemm, IsExactForEveryScalingAndOutput) {
  for (int s = 0; s < 6; ++s)
    for (int o = 0; o < 3; ++o)
      for (int flags = 0; flags < 32; ++flags) {
        const auto scaling = static_cast<Scaling>(s);
        const Variant variant{.scaling = scaling,
                              .output = static_cast<Output>(o),
                              .bias = (flags & 1) != 0,
                              .affine = (flags & 2) != 0,
                              .relu = (flags & 4) != 0,
                              .residual = (flags & 8) != 0,
                              .clamps = (flags & 16) != 0};
        check({35, 83, 132}, variant);
        if (scaling == Scaling::kTensor || scaling == Scaling::kChannel) check({23, 83, 40}, variant);  // few steps
      }
}

TEST_P(EveryTernaryGemm, GivesTheSameBitsForEverySplitAndThreadCount) {
  for (Scaling scaling : {Scaling::kTensor, Scaling::kGroup64}) {
    const Problem p{150, 333, 500};
    GemmCase c(row(), p, served({.scaling = scaling, .affine = true}));
    for (int threads : {1, 2, 3}) {
      c.clear();
      const auto bytes = static_cast<size_t>(ternary_gemm_scratch_bytes(row(), p.depth, c.args().group));
      AlignedBuffer scratch = *AlignedBuffer::allocate(bytes * static_cast<size_t>(threads));
      ternary_gemm(row(), c.args(), p.tokens, scratch.data(), *make_thread_pool(threads));
      EXPECT_TRUE(c.holds()) << threads << " threads";
    }
    c.clear();
    for (int64_t m = 0; m < p.tokens; m += 37)
      for (int64_t n = 0; n < p.rows; n += 64)
        row().run(c.args(), m, std::min(m + 37, p.tokens), n, std::min(n + 64, p.rows), c.scratch());
    EXPECT_TRUE(c.holds());
  }
}

TEST_P(EveryTernaryGemm, SharesOneActivationScaleWhereTheStrideIsZero) {
  const Problem p{3, 5, 33};
  GemmCase c(row(), p, {});
  TernaryGemmArgs args = c.args();
  std::vector<float> same(3, args.a[0]), first(15), second(15);
  args.y = first.data();
  args.a_stride = 0;
  row().run(args, 0, 3, 0, 5, c.scratch());
  args.y = second.data();
  args.a = same.data();
  args.a_stride = 1;
  row().run(args, 0, 3, 0, 5, c.scratch());
  EXPECT_TRUE(test::same_bits(first, second));
}

INSTANTIATE_TEST_SUITE_P(TernaryGemm, EveryTernaryGemm, ::testing::Range<size_t>(0, ternary_gemm_kernels().rows.size()),
                         [](const auto& param) { return std::string(ternary_gemm_kernels().rows[param.param].name); });

TEST(Pack, TheVnLayoutIsAsDocumented) {
  constexpr int64_t kRows = 75, kDepth = 37;
  const auto t = test::random_int8(kRows * kDepth, 5, -1, 1);
  const PackedTernary w = *pack_ternary(test::packed(t, kRows, kDepth), kRows, kDepth, TernaryLayout::kVn);
  ASSERT_EQ(w.data.size(), 75U * 48 / 4);  // depth in steps of 16, four codes a byte
  for (int64_t n = 0; n < kRows; ++n)
    for (int64_t k = 0; k < 48; ++k) {
      const int64_t block = n / 64, block_rows = block == 0 ? 64 : 11, r = n % 64;
      const int64_t step = k / 16, f = k % 16 / 4, j = k % 4;
      const uint8_t byte = w.data.data()[block * 64 * 48 / 4 + step * 4 * block_rows + 4 * r + j];
      const int expected = k < kDepth ? t[static_cast<size_t>(n * kDepth + k)] + 1 : 1;
      ASSERT_EQ((byte >> (2 * f)) & 3, expected) << n << " " << k;
    }
}

TEST(Pack, KeepsItsBudgetOfBitsAWeight) {
  // Codes and scales: float32 a channel, or float16 a group.
  const auto bits = [](int64_t rows, int64_t depth, int64_t group) {
    const int64_t scales = group == 0 ? rows * 4 : rows * ceil_div(depth, group) * 2;
    return static_cast<double>(packed_bytes(rows, depth, TernaryLayout::kVn) + scales) * 8 /
           static_cast<double>(rows * depth);
  };
  for (int64_t rows : {1, 10, 50, 64, 1000, 2048})
    for (int64_t depth : {512, 1024, 2048, 8640}) {
      EXPECT_LE(bits(rows, depth, 0), 2.1) << rows << " " << depth;
      EXPECT_LE(bits(rows, depth, 128), 2.2) << rows << " " << depth;
      EXPECT_LE(bits(rows, depth, 64), 2.35) << rows << " " << depth;
    }
}

TEST(Pack, TurnsGroupScalesRoundForKernels) {
  const std::vector<uint16_t> scales{1, 2, 3, 4, 5, 6};  // two rows, three groups
  const AlignedBuffer packed = *pack_group_scales(scales, 2, 3);
  const auto* values = reinterpret_cast<const uint16_t*>(packed.data());
  EXPECT_EQ(std::vector<uint16_t>(values, values + 6), (std::vector<uint16_t>{1, 4, 2, 5, 3, 6}));
}

const Machine kPlain{"plain", {}, 1, 32 << 10, 1 << 20, 0};
const Machine kHaswell{"haswell", {Feature::avx2, Feature::fma, Feature::f16c}, 4, 32 << 10, 1 << 18, 8 << 20};

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
  ASSERT_EQ(on_plain.verdicts.size(), ternary_gemm_kernels().rows.size());
  EXPECT_EQ(on_plain.verdicts[0].verdict, Verdict::kChosen);
#if defined(__x86_64__)
  EXPECT_EQ(on_plain.verdicts[1].verdict, Verdict::kMissingFeature);
  EXPECT_EQ(on_plain.verdicts[1].reason, "the machine lacks avx2 f16c");
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
  for (const TernaryGemmRow& row : ternary_gemm_kernels().rows)
    expected += fmt::format("{}{}: DisabledByPolicy (restricted to 'ternary_gemm:sve')",
                            &row == &ternary_gemm_kernels().rows[0] ? "" : "; ", row.name);
  EXPECT_EQ(none.error().message, expected);
  EXPECT_TRUE((Policy{"float_gemm:reference"}.allows("ternary_gemm", "x86_avx2")));
}

TEST(Selection, RowsForOneScaleRefuseOthers) {
  const Machine machine = *named_machine("avx512vnni");
  for (const TernaryGemmProblem& problem :
       {TernaryGemmProblem{64, 2048, 2048, 128}, TernaryGemmProblem{64, 2048, 2048, 0, true}}) {
    const auto selection = explain_ternary_gemm(problem, TernaryLayout::kVn, machine, {});
    for (size_t i = 0; i < selection.verdicts.size(); ++i)
      if (ternary_gemm_kernels().rows[i].serves == TernaryGemmServes::kPlainOnly &&
          ternary_gemm_kernels().rows[i].run != nullptr) {
        EXPECT_EQ(selection.verdicts[i].verdict, Verdict::kShapeNotAccepted);
        EXPECT_EQ(selection.verdicts[i].reason, "one scale a row only");
      }
  }
}

#if defined(__x86_64__)
TEST(Selection, ManyTokensAreLookedUp) {
  const auto chosen = [](int64_t tokens, int64_t rows, const char* machine) {
    return std::string((*select_ternary_gemm({tokens, rows, 2048}, TernaryLayout::kVn, *named_machine(machine), {}))->name);
  };
  EXPECT_EQ(chosen(1, 2048, "avx512vnni"), "x86_avx512vnni");
  EXPECT_EQ(chosen(8, 2048, "avx512vnni"), "x86_avx512vnni");
  EXPECT_EQ(chosen(64, 2048, "avx512vnni"), "x86_avx512vnni_hybrid");
  EXPECT_EQ(chosen(64, 64, "avx512vnni"), "x86_avx512vnni");  // too few rows for the tables
  EXPECT_EQ(chosen(8, 2048, "avx2"), "x86_avx2");
  EXPECT_EQ(chosen(64, 2048, "avx2"), "x86_avx2_lookup");
}
#endif

TEST(Selection, JudgesExtraRowsByTheSameRules) {
  const auto kernel = [](const TernaryGemmArgs&, int64_t, int64_t, int64_t, int64_t, uint8_t*) {};
  TernaryGemmRow own{"own", {}, TernaryLayout::kRows, TernaryGemmServes::kPlainOnly, {0, 1e-6, 0, 1}, {}, kernel};
  Policy policy;
  policy.add(ternary_gemm_kernels(), own);
  EXPECT_EQ(*select_ternary_layout(64, 64, kHaswell, policy), TernaryLayout::kRows);
  EXPECT_EQ(*select_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kHaswell, policy), &own);
  EXPECT_NE(*select_ternary_gemm({1, 64, 64, 64}, TernaryLayout::kRows, kHaswell, policy), &own);
  policy.restrict_to = "ternary_gemm:reference";
  EXPECT_NE(*select_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kHaswell, policy), &own);
  own.needs = {Feature::i8mm};
  policy.restrict_to.clear();
  EXPECT_EQ(explain_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kHaswell, policy).verdicts.back().reason,
            "the machine lacks i8mm");
}

// The op decides, not only the type of the rows.
TEST(Selection, ExtraRowsBelongToTheListThatTheyWereAddedTo) {
  const FloatGemmRow own{"own", {}, 1e-6, [](const FloatGemmArgs&, int64_t, int64_t, int64_t, int64_t) {}};
  const KernelList<FloatGemmRow> same_type{"same_type", float_gemm_kernels().rows};
  Policy policy;
  policy.add(float_gemm_kernels(), own);
  EXPECT_EQ(*select(float_gemm_kernels(), kHaswell, policy), &own);
  EXPECT_EQ(explain(same_type, kHaswell, policy).verdicts.size(), float_gemm_kernels().rows.size());
  EXPECT_EQ(explain_ternary_gemm({1, 64, 64}, TernaryLayout::kRows, kHaswell, policy).verdicts.size(),
            ternary_gemm_kernels().rows.size());
}

TEST(TernaryGemmList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(ternary_gemm_kernels().rows.size(), 9U); }

}  // namespace
}  // namespace bitlab::kernels
