// Encoders against their published formulas in long double, codes against a bit-by-bit reading, the oracle against plain sums.
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/encode.h"
#include "bitlab/ternary/oracle.h"
#include "bitlab/ternary/trits.h"

namespace bitlab::ternary {
namespace {

std::vector<float> random_weights(int64_t count, uint32_t seed, float spread) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> w(static_cast<size_t>(count));
  for (float& v : w) v = normal(generator);
  return w;
}

struct Encoded {
  std::vector<int8_t> t;
  std::vector<float> scale;
};

Encoded encoded(const WeightSpec& spec, const std::vector<float>& w, int64_t rows, int64_t depth) {
  Encoded e{std::vector<int8_t>(w.size()), std::vector<float>(static_cast<size_t>(scale_count(spec.granularity, rows)))};
  encode(spec, w, rows, depth, e.t, e.scale).value();
  return e;
}

// The formulas, on the weights that share a scale.
Encoded expected(Method method, std::span<const float> w) {
  long double sum = 0;
  for (float v : w) sum += std::fabs(static_cast<long double>(v));
  const long double mean = sum / static_cast<long double>(w.size());
  Encoded e;
  if (method == Method::kAbsmean) {
    const float s = std::max(static_cast<float>(mean), 1e-5F);
    for (float v : w) e.t.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(v / s), -1.0F, 1.0F)));
    e.scale.push_back(s);
    return e;
  }
  long double kept = 0;
  int count = 0;
  for (float v : w) {
    const bool keep = std::fabs(static_cast<long double>(v)) > 0.7L * mean;
    e.t.push_back(static_cast<int8_t>(keep ? (v > 0 ? 1 : -1) : 0));
    if (keep) kept += std::fabs(static_cast<long double>(v)), ++count;
  }
  e.scale.push_back(count == 0 ? 0.0F : static_cast<float>(kept / count));
  return e;
}

TEST(Encode, FollowsTheFormulas) {
  for (Method method : {Method::kAbsmean, Method::kTwn})
    for (auto [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {20, 25}, {64, 257}}) {
      const auto w = random_weights(rows * depth, static_cast<uint32_t>(rows), 0.05F);
      const Encoded tensor = encoded({method, Granularity::kTensor}, w, rows, depth), whole = expected(method, w);
      EXPECT_EQ(tensor.t, whole.t);
      EXPECT_FLOAT_EQ(tensor.scale[0], whole.scale[0]);
      const Encoded channel = encoded({method, Granularity::kChannel}, w, rows, depth);
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = expected(method, std::span(w).subspan(static_cast<size_t>(r * depth), static_cast<size_t>(depth)));
        EXPECT_EQ(std::vector<int8_t>(channel.t.begin() + r * depth, channel.t.begin() + (r + 1) * depth), row.t);
        EXPECT_FLOAT_EQ(channel.scale[static_cast<size_t>(r)], row.scale[0]);
      }
    }
}

TEST(Encode, EdgesOfTheFormulas) {
  // All zero: absmean keeps its floor, TWN has nothing to average.
  const std::vector<float> zeros(8, 0.0F);
  EXPECT_EQ(encoded({Method::kAbsmean, {}}, zeros, 2, 4).scale[0], 1e-5F);
  EXPECT_EQ(encoded({Method::kTwn, {}}, zeros, 2, 4).scale[0], 0.0F);
  EXPECT_EQ(encoded({Method::kTwn, {}}, zeros, 2, 4).t, std::vector<int8_t>(8, 0));
  // w / s of exactly one half rounds to even, zero: mean of {1, 3} is 2, 1 / 2 is 0.5.
  EXPECT_EQ(encoded({}, {1.0F, -3.0F}, 1, 2).t, (std::vector<int8_t>{0, -1}));
  EXPECT_EQ(encoded({}, {-0.0F, 1e30F}, 1, 2).t, (std::vector<int8_t>{0, 1}));
}

TEST(Encode, RefusesBadInput) {
  std::vector<float> w{1, std::numeric_limits<float>::infinity()}, scale(1);
  std::vector<int8_t> t(2);
  EXPECT_EQ(encode({}, w, 1, 2, t, scale).error().message, "[encode] finite weights, got inf (index=1)");
  EXPECT_EQ(encode({}, w, 2, 2, t, scale).error().code, ErrorCode::kShapeMismatch);
}

TEST(Codes, PackAndUnpack) {
  for (int64_t rows : {1, 3})
    for (int64_t depth : {1, 3, 4, 5, 64, 67}) {
      std::vector<int8_t> t(static_cast<size_t>(rows * depth)), back(t.size());
      for (size_t i = 0; i < t.size(); ++i) t[i] = static_cast<int8_t>(static_cast<int>(i * 7 % 3) - 1);
      std::vector<uint8_t> codes(static_cast<size_t>(code_bytes(rows, depth)));
      pack_codes(t, rows, depth, codes);
      EXPECT_TRUE(validate_codes(codes, rows, depth).ok());
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < depth; ++k) {
          const int field = codes[static_cast<size_t>(r * ((depth + 3) / 4) + k / 4)] >> (k % 4 * 2) & 3;
          EXPECT_EQ(field - 1, t[static_cast<size_t>(r * depth + k)]);
        }
      unpack_codes(codes, rows, depth, back);
      EXPECT_EQ(back, t);
    }
}

TEST(Codes, ValidationFindsEveryBadField) {
  const int64_t depth = 6;
  std::vector<uint8_t> codes(4);
  pack_codes(std::vector<int8_t>(12, 0), 2, depth, codes);
  for (size_t byte = 0; byte < codes.size(); ++byte)
    for (int field = 0; field < 4; ++field) {
      auto broken = codes;
      broken[byte] |= static_cast<uint8_t>(3 << (2 * field));
      EXPECT_EQ(validate_codes(broken, 2, depth).error().code, ErrorCode::kCorrupt) << byte << " " << field;
    }
  auto padding = codes;
  padding[1] = 0x05;  // unused fields hold 0 instead of 1
  EXPECT_FALSE(validate_codes(padding, 2, depth).ok());
  EXPECT_EQ(validate_codes(std::span(codes).first(3), 2, depth).error().code, ErrorCode::kShapeMismatch);
}

TEST(Trits, AreBaseThreeDigitsAndComeBack) {
  for (int64_t rows : {1, 3})
    for (int64_t depth : {1, 4, 5, 6, 19, 20, 21, 39, 40, 41, 64, 67, 1003}) {
      std::mt19937 generator(static_cast<uint32_t>(depth));
      std::vector<int8_t> t(static_cast<size_t>(rows * depth));
      for (int8_t& v : t) v = static_cast<int8_t>(static_cast<int>(generator() % 3) - 1);
      std::vector<uint8_t> codes(static_cast<size_t>(code_bytes(rows, depth))), back(codes.size());
      pack_codes(t, rows, depth, codes);
      std::vector<uint8_t> trits(static_cast<size_t>(trit_bytes(rows, depth)));
      pack_trits(codes, rows, depth, trits);
      constexpr int kPowers[] = {1, 3, 9, 27, 81};
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < (depth + 4) / 5 * 5; ++k) {
          const int digit = trits[static_cast<size_t>(r * ((depth + 4) / 5) + k / 5)] / kPowers[k % 5] % 3;
          EXPECT_EQ(digit - 1, k < depth ? t[static_cast<size_t>(r * depth + k)] : 0);
        }
      ASSERT_TRUE(unpack_trits(trits, rows, depth, back).ok());
      EXPECT_EQ(back, codes) << "the unused fields too";
    }
}

TEST(Trits, AnyByteAndUnusedDigitIsChecked) {
  const int64_t rows = 2, depth = 47;  // of a row's ten bytes the last one has three unused digits
  std::vector<uint8_t> codes(static_cast<size_t>(code_bytes(rows, depth)));
  pack_codes(std::vector<int8_t>(rows * depth, 1), rows, depth, codes);
  std::vector<uint8_t> trits(static_cast<size_t>(trit_bytes(rows, depth)));
  pack_trits(codes, rows, depth, trits);
  for (size_t i = 0; i < trits.size(); ++i)
    for (int byte = 0; byte < 256; ++byte) {
      auto changed = trits;
      changed[i] = static_cast<uint8_t>(byte);
      const bool last = i % 10 == 9, valid = byte < 243 && (!last || byte / 9 == 1 + 3 + 9);
      const Status status = unpack_trits(changed, rows, depth, codes);
      ASSERT_EQ(status.ok(), valid) << i << " " << byte;
      if (valid) continue;
      EXPECT_EQ(
          status.error().message,
          fmt::format("[trits] bytes below 243 with unused digits of 1, got {} (row={}, byte={})", byte, i / 10, i % 10));
    }
  EXPECT_EQ(unpack_trits(std::span(trits).first(19), rows, depth, codes).error().code, ErrorCode::kShapeMismatch);
}

TEST(Codes, Sparsity) {
  std::vector<uint8_t> codes(2);
  pack_codes(std::vector<int8_t>{0, 1, -1, 0, 0}, 1, 5, codes);
  EXPECT_DOUBLE_EQ(sparsity(codes, 1, 5), 0.6);
}

TEST(Oracle, QuantizesAsTheContractSays) {
  const auto row = oracle::quantize_int8(std::vector<float>{-2.0F, 1.0F, 0.0F, 0.5F});
  EXPECT_EQ(row.q, (std::vector<int8_t>{-127, 64, 0, 32}));  // 63.5 rounds to even 64; 31.75 to 32
  EXPECT_EQ(row.scale, 1.0F / (127.0F / 2.0F));
  EXPECT_EQ(oracle::quantize_int8(std::vector<float>{0.0F, 1e-9F}).q, (std::vector<int8_t>{0, 0}));
}

TEST(Oracle, ConvolutionIsTheSumOverTheWindow) {
  // One filter of ones on an image of ones whose absmax is 1: every output is the number of pixels under the window.
  const oracle::ConvShape shape{
      .batch = 1, .channels = 1, .input = {1, 4, 5}, .filters = 1, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  const auto y = oracle::conv(std::vector<float>(20, 1.0F), std::vector<int8_t>(9, 1), std::vector<float>{1.0F}, {}, shape);
  ASSERT_EQ(y.size(), 20U);
  const float expected[20] = {4, 6, 6, 6, 4, 6, 9, 9, 9, 6, 6, 9, 9, 9, 6, 4, 6, 6, 6, 4};
  for (size_t i = 0; i < 20; ++i) EXPECT_NEAR(y[i], expected[i], 1e-5);
}

TEST(Names, RoundTrip) {
  EXPECT_EQ(parse_method("twn").value(), Method::kTwn);
  EXPECT_EQ(name(Granularity::kChannel), "channel");
  EXPECT_EQ(parse_method("absmeen").error().code, ErrorCode::kUnknownName);
  EXPECT_EQ(parse_act_kind("int8").value(), ActKind::kInt8);
}

}  // namespace
}  // namespace bitlab::ternary
