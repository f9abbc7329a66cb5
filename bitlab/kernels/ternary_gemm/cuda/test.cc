// The body of the mma.sync kernels, run by the host lane by lane: the bits of the CPU's reference, which test.cc of the op compares with the oracle.
#include <memory>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/kernels/ternary_gemm/cuda/products.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

using test::GuardedBytes;

struct MmaCase {
  int64_t tokens, rows, depth;
  int number;  // decides what follows the product, and whether values are the worst ones
};

// Owns what arguments point to. Behind the kernel's weights, and behind the last k of q that it may read, lies a page that faults.
class MmaProblem {
 public:
  MmaProblem(const MmaCase& c, TernaryScaling scaling, int64_t group)
      : case_(c),
        t_(test::random_int8(c.rows * c.depth, 1 + static_cast<uint32_t>(c.number), -1, 1)),
        q_stride_(mma_chunks(c.depth) * kMmaDepth),
        q_(static_cast<size_t>(c.tokens * q_stride_)),
        scales_(test::random_floats(4 * c.rows, 2)),
        residual_(test::random_floats(c.tokens * (c.rows + 2), 6)),
        a_(test::random_floats(c.tokens, 3)) {
    const std::vector<int8_t> values = test::random_int8(c.tokens * q_stride_, 4, -127, 127);
    int8_t* q = q_.fill(std::span(values));
    for (int64_t m = 0; m < c.tokens && c.number % 3 == 0; ++m)
      std::fill_n(q + m * q_stride_, c.depth, static_cast<int8_t>(m % 2 == 0 ? 127 : -127));
    if (c.number % 3 == 0)
      for (size_t i = 0; i < t_.size(); ++i)
        t_[i] = static_cast<int8_t>(static_cast<int64_t>(i) / c.depth % 2 == 0 ? 1 : -1);
    args_ = {.rows = c.rows, .depth = c.depth, .q = q, .q_stride = q_stride_, .a = a_.data()};
    if (scaling == TernaryScaling::kGroups) {
      for (const float scale : test::random_floats((c.depth + group - 1) / group * c.rows, 5))
        halves_.push_back(float_to_half(scale));
      args_.group = group, args_.group_scale = halves_.data();
    } else {
      args_.scale = scales_.data(), args_.scale_stride = c.number % 2;
      if (scaling == TernaryScaling::kTwo) args_.scale_neg = scales_.data() + c.rows;
    }
    if (c.number % 2 == 0) args_.bias = scales_.data() + 2 * c.rows;
    if (c.number % 5 == 1) args_.alpha = scales_.data(), args_.beta = scales_.data() + 3 * c.rows;
    args_.relu = c.number % 7 == 3;
    if (c.number % 3 == 1) args_.residual = residual_.data();
    if (c.number % 4 >= 2) args_.clamps = true, args_.low = c.number % 2 == 0 ? -0.5F : args_.low, args_.high = 1.5F;
    args_.y_inv = 0.37F, args_.y_stride = c.rows + 2;
    if (c.number % 4 == 3) args_.y_type = c.number % 8 == 3 ? CudaType::kFloat16 : CudaType::kBFloat16;
    codes_ = test::packed(t_, c.rows, c.depth);
    packed_ = pack_ternary(codes_, c.rows, c.depth, TernaryLayout::kMma).value();
  }

  // Bytes of the results, and of what lies between rows.
  std::vector<uint8_t> expected() {
    std::vector<uint8_t> bytes = results([&](TernaryGemmArgs& args) {
      args.weights = codes_.data();
      ternary_gemm_reference(args, 0, case_.tokens, 0, case_.rows, nullptr);
    });
    return args_.y_type == CudaType::kFloat32 ? bytes : rounded(bytes);
  }

  std::vector<uint8_t> finished() {
    std::vector<int32_t> sums(static_cast<size_t>(case_.tokens * (case_.rows + 3)), -1);
    for (int64_t token = 0; token < case_.tokens; ++token)
      for (int64_t row = 0; row < case_.rows; ++row) {
        int32_t& sum = sums[static_cast<size_t>(token * (case_.rows + 3) + row)] = 0;
        for (int64_t k = 0; k < case_.depth; ++k)
          sum += t_[static_cast<size_t>(row * case_.depth + k)] * args_.q[token * q_stride_ + k];
      }
    return results([&](TernaryGemmArgs& args) {
      const EachSumOfOthers work{args, sums.data(), case_.rows + 3, case_.tokens * case_.rows};
      for (int64_t i = 0; i < work.count; ++i) work(i);
    });
  }

  // Of rows that are no longer than a copy of their last k.
  template <class Tiles>
  std::vector<uint8_t> in_tiles() {
    GuardedBytes weights(packed_.data.size());
    const int64_t stride = (case_.depth + cuda::Copies::kBytes - 1) / cuda::Copies::kBytes * cuda::Copies::kBytes;
    std::vector<int8_t> rows;
    for (int64_t token = 0; token < case_.tokens; ++token)
      rows.insert(rows.end(), args_.q + token * q_stride_, args_.q + token * q_stride_ + stride);
    GuardedBytes q(rows.size());
    return results([&](TernaryGemmArgs& p) {
      p.q = q.fill(std::span<const int8_t>(rows)), p.q_stride = stride;
      p.weights = weights.fill(std::span<const uint8_t>(packed_.data.data(), packed_.data.size()));
      const TilesArgs args{p, case_.tokens, {}};
      const auto shared = std::make_unique<typename Tiles::Shared>();
      for (int64_t x = 0; x < Tiles::grid(args).x; ++x) Tiles::run({x, 0}, args, *shared);
    });
  }

  template <class Product>
  std::vector<uint8_t> got() {
    GuardedBytes weights(packed_.data.size());
    return results([&](TernaryGemmArgs& args) {
      args.weights = weights.fill(std::span<const uint8_t>(packed_.data.data(), packed_.data.size()));
      const auto shared = std::make_unique<typename Product::Shared>();
      for (int64_t x = 0; x * Product::kRows < case_.rows; ++x)
        for (int64_t y = 0; y * Product::kTokens < case_.tokens; ++y) {
          const auto threads = std::make_unique<typename Product::Threads>();
          Product::run({x, y}, args, case_.tokens, *threads, *shared);
        }
    });
  }

 private:
  // Results in float32 as those in 16 bits.
  std::vector<uint8_t> rounded(const std::vector<uint8_t>& bytes) const {
    std::vector<uint8_t> halves(bytes.size(), 0x55);
    for (int64_t token = 0; token < case_.tokens; ++token)
      for (int64_t row = 0; row < case_.rows; ++row) {
        const auto at = static_cast<size_t>(token * args_.y_stride + row);
        float y = 0;
        std::memcpy(&y, bytes.data() + at * sizeof(y), sizeof(y));
        const uint16_t bits = args_.y_type == CudaType::kFloat16 ? float_to_half(y) : float_to_bfloat(y);
        std::memcpy(halves.data() + at * sizeof(bits), &bits, sizeof(bits));
      }
    return halves;
  }

  template <class Run>
  std::vector<uint8_t> results(Run run) {
    const bool int8 = case_.number % 4 == 2;
    std::vector<uint8_t> bytes(static_cast<size_t>(case_.tokens * args_.y_stride * 4), 0x55);
    TernaryGemmArgs args = args_;
    if (int8) {
      args.y_q = reinterpret_cast<int8_t*>(bytes.data());
    } else {
      args.y = reinterpret_cast<float*>(bytes.data());
    }
    run(args);
    return bytes;
  }

  MmaCase case_;
  std::vector<int8_t> t_;
  int64_t q_stride_;
  GuardedBytes q_;
  std::vector<float> scales_, residual_, a_;
  std::vector<uint16_t> halves_;
  TernaryGemmArgs args_;
  std::vector<uint8_t> codes_;
  PackedTernary packed_;
};

// Each edge of tokens, rows and depth: one, a full tile, one more; and more chunks than the warps of a block take at once. Several times each, with
// another number.
std::vector<MmaCase> mma_cases() {
  return {{1, 1, 1, 0},      {1, 16, 128, 1},   {7, 33, 63, 2},     {8, 16, 129, 3},   {8, 1, 700, 4},   {9, 33, 128, 5},
          {9, 16, 1, 6},     {17, 1, 129, 7},   {17, 33, 700, 8},   {7, 1, 128, 9},    {1, 33, 700, 10}, {16, 32, 256, 11},
          {2, 18, 2100, 12}, {3, 65, 4224, 13}, {65, 130, 300, 15}, {130, 65, 257, 16}};
}

template <class Product>
void compare_mma(TernaryScaling scaling, int64_t group = 0) {
  for (const MmaCase& c : mma_cases()) {
    MmaProblem problem(c, scaling, group);
    ASSERT_EQ(problem.got<Product>(), problem.expected())
        << "tokens=" << c.tokens << " rows=" << c.rows << " depth=" << c.depth << " number=" << c.number
        << " group=" << group;
  }
}

template <class Tiles>
void compare_tiles(TernaryScaling scaling, int64_t group = 0) {
  for (const MmaCase& c : mma_cases()) {
    MmaProblem problem(c, scaling, group);
    ASSERT_EQ(problem.in_tiles<Tiles>(), problem.expected())
        << "tokens=" << c.tokens << " rows=" << c.rows << " depth=" << c.depth << " number=" << c.number
        << " group=" << group;
  }
}

TEST(CudaTernaryGemm, OneScaleHasTheBitsOfTheCpu) {
  compare_mma<MmaProduct<1, 1, 4, 4, TernaryScaling::kOne>>(TernaryScaling::kOne);
  compare_mma<MmaProduct<2, 1, 8, 2, TernaryScaling::kOne>>(TernaryScaling::kOne);
  compare_mma<MmaProduct<4, 1, 16, 1, TernaryScaling::kOne>>(TernaryScaling::kOne);
  compare_mma<MmaProduct<2, 2, 8, 1, TernaryScaling::kOne>>(TernaryScaling::kOne);
}

TEST(CudaTernaryGemm, TwoScalesHaveTheBitsOfTheCpu) {
  compare_mma<MmaProduct<1, 1, 4, 4, TernaryScaling::kTwo>>(TernaryScaling::kTwo);
  compare_mma<MmaProduct<2, 1, 8, 2, TernaryScaling::kTwo>>(TernaryScaling::kTwo);
  compare_mma<MmaProduct<2, 2, 4, 1, TernaryScaling::kTwo>>(TernaryScaling::kTwo);
}

TEST(CudaTernaryGemm, GroupsHaveTheBitsOfTheCpu) {
  for (const int64_t group : {64, 128, 256}) {
    compare_mma<MmaProduct<1, 1, 8, 1, TernaryScaling::kGroups>>(TernaryScaling::kGroups, group);
    compare_mma<MmaProduct<2, 2, 4, 1, TernaryScaling::kGroups>>(TernaryScaling::kGroups, group);
  }
}

TEST(CudaTernaryGemm, BlocksOfManyTokensHaveTheBitsOfTheCpu) {
  compare_tiles<MmaTiles<2, 4, TernaryScaling::kOne, false>>(TernaryScaling::kOne);
  compare_tiles<MmaTiles<2, 8, TernaryScaling::kOne, false>>(TernaryScaling::kOne);
  compare_tiles<MmaTiles<4, 8, TernaryScaling::kOne, false>>(TernaryScaling::kOne);
  compare_tiles<MmaTiles<2, 4, TernaryScaling::kTwo, false>>(TernaryScaling::kTwo);
  compare_tiles<MmaTiles<2, 8, TernaryScaling::kTwo, false>>(TernaryScaling::kTwo);
  for (const int64_t group : {64, 128, 256}) {
    compare_tiles<MmaTiles<2, 4, TernaryScaling::kGroups, false>>(TernaryScaling::kGroups, group);
    compare_tiles<MmaTiles<2, 8, TernaryScaling::kGroups, false>>(TernaryScaling::kGroups, group);
  }
}

TEST(CudaTernaryGemm, WeightsAndRowsThatNoDeviceReadsAreRefused) {
  alignas(16) const uint8_t bytes[64] = {};
  const auto wrong = [&](int64_t weights, int64_t q, int64_t stride) {
    TernaryGemmArgs args;
    args.weights = bytes + weights, args.q = reinterpret_cast<const int8_t*>(bytes) + q, args.q_stride = stride;
    return wrong_places(args) != nullptr;
  };
  EXPECT_FALSE(wrong(16, 32, 48));
  EXPECT_TRUE(wrong(8, 32, 48));
  EXPECT_TRUE(wrong(16, 36, 48));
  EXPECT_TRUE(wrong(16, 32, 40));
}

TEST(CudaTernaryGemm, SumsOfOthersAreFinishedAlike) {
  for (const MmaCase& c : mma_cases()) {
    MmaProblem problem(c, TernaryScaling::kOne, 0);
    ASSERT_EQ(problem.finished(), problem.expected()) << c.number;
  }
}

TEST(CudaTernaryGemm, TheDevicePacksAsTheHostDoes) {
  for (const auto& [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {16, 128}, {17, 129}, {33, 700}, {66, 31}}) {
    const std::vector<int8_t> t = test::random_int8(rows * depth, 7, -1, 1);
    const PackedTernary expected = pack_ternary(test::packed(t, rows, depth), rows, depth, TernaryLayout::kMma).value();
    std::vector<uint8_t> packed(expected.data.size(), 0x55);
    const EachWordOfWeights work(t.data(), rows, depth, packed.data());
    for (int64_t i = 0; i < work.count; ++i) work(i);
    EXPECT_TRUE(std::equal(packed.begin(), packed.end(), expected.data.data())) << rows << " " << depth;
  }
}

TEST(CudaTernaryGemm, SumsAtTheDepthLimitFit) { EXPECT_LT(64 * 127 * kMmaMaxDepth, int64_t{1} << 31); }

TEST(CudaTernaryGemm, EveryLayoutIsTheSameMatrix) {
  for (const auto& [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {66, 37}, {130, 129}}) {
    const std::vector<int8_t> t = test::random_int8(rows * depth, 1, -1, 1);
    const std::vector<uint8_t> codes = test::packed(t, rows, depth);
    const PackedTernary expected = pack_ternary(codes, rows, depth, TernaryLayout::kMma).value();
    for (const TernaryLayout layout : {TernaryLayout::kRows, TernaryLayout::kVn, TernaryLayout::kMma}) {
      const PackedTernary mma = repack_mma(pack_ternary(codes, rows, depth, layout).value()).value();
      EXPECT_EQ(mma.layout, TernaryLayout::kMma);
      ASSERT_EQ(mma.data.size(), expected.data.size());
      EXPECT_TRUE(std::equal(mma.data.data(), mma.data.data() + mma.data.size(), expected.data.data())) << name(layout);
      for (const int64_t groups : {1, 2}) {
        if (rows % groups != 0) continue;
        const PackedTernary packed = pack_ternary(codes, rows, depth, layout, groups).value();
        std::vector<int8_t> found(t.size());
        for (int64_t row = 0; row < rows; ++row)
          unpack_row(packed, row, 0, std::span(found).subspan(static_cast<size_t>(row * depth), static_cast<size_t>(depth)),
                     groups);
        EXPECT_EQ(found, t) << name(layout) << " " << groups;
      }
    }
  }
}

TEST(CudaTernaryGemm, APackedWeightTakesTwoBitsAWeight) {
  EXPECT_EQ(packed_bytes(4096, 4096, TernaryLayout::kMma), 4096 * 4096 / 4);
  EXPECT_EQ(packed_bytes(1, 1, TernaryLayout::kMma), kMmaTileBytes);
}

}  // namespace
}  // namespace bitlab::kernels
