// Encoders against their published formulas in long double, codes against a bit-by-bit reading, the oracle against plain sums.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/encode.h"
#include "bitlab/ternary/internal/method.h"
#include "bitlab/ternary/oracle.h"
#include "bitlab/ternary/test_support.h"
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
  std::vector<float> scale, scale_neg;
};

Status try_encode(const WeightSpec& spec, const std::vector<float>& w, int64_t rows, int64_t depth, Encoded& e,
                  const test::LearnedValues& learned = {}) {
  e.t.resize(w.size());
  e.scale.resize(static_cast<size_t>(scale_count(spec, rows, depth)));
  e.scale_neg.resize(info(spec.method).asymmetric ? e.scale.size() : 0);
  return encode(spec, w, rows, depth, learned.view(), {e.t, e.scale, e.scale_neg, {}});
}

Encoded encoded(const WeightSpec& spec, const std::vector<float>& w, int64_t rows, int64_t depth,
                const test::LearnedValues& learned = {}) {
  Encoded e;
  const Status status = try_encode(spec, w, rows, depth, e, learned);
  EXPECT_TRUE(status.ok()) << to_text(spec);
  return e;
}

// The formulas as the papers write them, on the weights that share a scale: `scale` and codes by division and rounding.
struct Part {
  std::vector<int8_t> t;
  float scale;
  std::optional<float> scale_neg{};
};

Part rounded(std::span<const float> w, float s, float limit = 1) {
  Part part{{}, s, {}};
  for (float v : w) part.t.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(v / s), -limit, limit)));
  return part;
}

Part cut(std::span<const float> w, long double threshold) {
  Part part{{}, 0, {}};
  long double kept = 0;
  int count = 0;
  for (float v : w) {
    const bool keep = std::fabs(static_cast<long double>(v)) > threshold;
    part.t.push_back(static_cast<int8_t>(keep ? (v > 0 ? 1 : -1) : 0));
    if (keep) kept += std::fabs(static_cast<long double>(v)), ++count;
  }
  part.scale = count == 0 ? 0.0F : static_cast<float>(kept / count);
  return part;
}

// The mean of |w| over those beyond the threshold on the side of `sign`.
float mean_beyond(std::span<const float> w, long double threshold, int sign) {
  long double sum = 0;
  int count = 0;
  for (float v : w)
    if (sign * static_cast<long double>(v) > threshold) sum += sign * static_cast<long double>(v), ++count;
  return count == 0 ? 0.0F : static_cast<float>(sum / count);
}

Part expected(const WeightSpec& spec, std::span<const float> w, const test::OneLearned& learned) {
  std::vector<long double> size;
  long double sum = 0;
  for (float v : w) size.push_back(std::fabs(static_cast<long double>(v))), sum += size.back();
  const long double mean = sum / static_cast<long double>(w.size());
  std::sort(size.begin(), size.end());
  const auto c = static_cast<long double>(spec.threshold != 0 ? spec.threshold : info(spec.method).default_threshold);
  switch (spec.method) {
    case Method::kAbsmean:
      return rounded(w, std::max(static_cast<float>(mean), 1e-5F));
    case Method::kAbsmedian:
      return rounded(w, std::max(static_cast<float>(size[(size.size() - 1) / 2]), 1e-5F));
    case Method::kTwn:
      return cut(w, c * mean);
    case Method::kTwnAsymmetric: {
      Part part = cut(w, c * mean);
      part.scale = mean_beyond(w, c * mean, 1), part.scale_neg = mean_beyond(w, c * mean, -1);
      return part;
    }
    case Method::kFixed:
      return cut(w, c);
    case Method::kTga:
      return cut(w, std::fabs(learned.threshold));
    case Method::kLsq:
      return rounded(w, std::max(std::fabs(learned.scale), 1e-5F));
    case Method::kInt8:
      return rounded(w, std::max(static_cast<float>(size.back()), 1e-5F) / 127, 127);
    case Method::kTtq: {
      Part part = cut(w, c * size.back());
      part.scale = learned.scale, part.scale_neg = learned.scale_neg;
      return part;
    }
  }
  return {};
}

std::vector<WeightSpec> all_specs() {
  std::vector<WeightSpec> specs;
  for (size_t m = 0; m < method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup})
      for (int64_t group : {128, 64, 256}) {
        const WeightSpec spec{.method = static_cast<Method>(m), .granularity = granularity, .group = group};
        if (validate(spec).ok() && (group == 128 || granularity == Granularity::kGroup)) specs.push_back(spec);
      }
  specs.push_back({.method = Method::kTwn, .threshold = 1.2});
  specs.push_back({.method = Method::kTtq, .granularity = Granularity::kChannel, .threshold = 0.3});
  specs.push_back({.method = Method::kFixed, .threshold = 0.02});
  return specs;
}

TEST(Encode, FollowsTheFormulas) {
  for (const WeightSpec& spec : all_specs())
    for (auto [rows, depth] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {20, 25}, {5, 64}, {7, 300}, {64, 257}}) {
      const auto w = random_weights(rows * depth, static_cast<uint32_t>(rows), 0.05F);
      const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
      const auto learned = test::learned_values(spec.method, static_cast<int64_t>(scales), [](int64_t count, uint32_t seed) {
        return random_weights(count, seed, 0.05F);
      });
      const auto own = [](const std::vector<float>& values, size_t i) { return values.empty() ? 0.0F : values[i]; };
      const Encoded got = encoded(spec, w, rows, depth, learned);
      // Which weights share scale i, by arithmetic of its own.
      size_t i = 0;
      for (int64_t r = 0; r < (spec.granularity == Granularity::kTensor ? 1 : rows); ++r) {
        const int64_t length = spec.granularity == Granularity::kTensor ? rows * depth : depth;
        const int64_t step = spec.granularity == Granularity::kGroup ? spec.group : length;
        for (int64_t k = 0; k < length; k += step, ++i) {
          const auto begin = static_cast<size_t>(r * length + k), count = static_cast<size_t>(std::min(step, length - k));
          const Part part = expected(spec, std::span(w).subspan(begin, count),
                                     {own(learned.scale, i), own(learned.scale_neg, i), own(learned.threshold, i)});
          EXPECT_EQ(std::vector<int8_t>(got.t.begin() + static_cast<int64_t>(begin),
                                        got.t.begin() + static_cast<int64_t>(begin + count)),
                    part.t)
              << to_text(spec);
          if (spec.granularity == Granularity::kGroup) {
            EXPECT_NEAR(got.scale[i], part.scale, 5e-4 * part.scale);  // float16
            EXPECT_EQ(got.scale[i], half_to_float(float_to_half(got.scale[i])));
          } else {
            EXPECT_FLOAT_EQ(got.scale[i], part.scale) << to_text(spec);
          }
          EXPECT_EQ(got.scale_neg.empty(), !part.scale_neg);
          if (part.scale_neg) {
            EXPECT_FLOAT_EQ(got.scale_neg[i], *part.scale_neg) << to_text(spec);
          }
        }
      }
      EXPECT_EQ(i, scales);
    }
}

// Beyond the size of a piece.
TEST(Encode, NamesTheFirstBadWeight) {
  const int64_t rows = 37, depth = 4099;
  auto broken = random_weights(rows * depth, 8, 0.05F);
  broken[100'003] = std::numeric_limits<float>::quiet_NaN();
  Encoded e;
  EXPECT_EQ(try_encode({}, broken, rows, depth, e).error().message, "[encode] finite weights, got nan (index=100003)");
}

// The best scale for a threshold, against its neighbours: no other scale has a smaller squared error.
TEST(Encode, ScalesOfThresholdMethodsAreLeastSquares) {
  const auto w = random_weights(500, 9, 0.05F);
  for (const WeightSpec spec :
       {WeightSpec{.method = Method::kTwn}, WeightSpec{.method = Method::kFixed, .threshold = 0.03}}) {
    const Encoded e = encoded(spec, w, 1, 500);
    const auto error = [&](double s) {
      double sum = 0;
      for (size_t i = 0; i < w.size(); ++i) sum += std::pow(w[i] - s * e.t[i], 2);
      return sum;
    };
    EXPECT_LT(error(e.scale[0]), error(e.scale[0] * 1.001));
    EXPECT_LT(error(e.scale[0]), error(e.scale[0] * 0.999));
  }
  const Encoded two = encoded({.method = Method::kTwnAsymmetric}, w, 1, 500);
  const auto error = [&](double up, double down) {
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) sum += std::pow(w[i] - (two.t[i] > 0 ? up : down) * two.t[i], 2);
    return sum;
  };
  EXPECT_NE(two.scale[0], two.scale_neg[0]);
  for (const double factor : {1.001, 0.999}) {
    EXPECT_LT(error(two.scale[0], two.scale_neg[0]), error(two.scale[0] * factor, two.scale_neg[0]));
    EXPECT_LT(error(two.scale[0], two.scale_neg[0]), error(two.scale[0], two.scale_neg[0] * factor));
  }
}

// Codes are found by comparing with half a scale; the formula divides and rounds. They agree for every float around the half.
TEST(Encode, HalfAScaleIsWhereTheQuotientRounds) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> uniform(1e-5F, 4.0F);
  for (int i = 0; i < 20'000; ++i) {
    const float s = uniform(generator);
    float w = s / 2;
    for (int step = 0; step < 3; ++step) w = std::nextafter(w, 0.0F);
    for (int step = 0; step < 7; ++step, w = std::nextafter(w, 1e9F)) {
      Encoded e;
      ASSERT_TRUE(try_encode({.method = Method::kLsq}, {w}, 1, 1, e, {.scale = {s}}).ok());
      ASSERT_EQ(e.t[0], std::clamp(std::nearbyint(w / s), -1.0F, 1.0F)) << w << " " << s;
    }
  }
}

TEST(Encode, EdgesOfTheFormulas) {
  // All zero: absmean keeps its floor, TWN has nothing to average.
  const std::vector<float> zeros(8, 0.0F);
  EXPECT_EQ(encoded({}, zeros, 2, 4).scale[0], 1e-5F);
  EXPECT_EQ(encoded({.method = Method::kAbsmedian}, zeros, 2, 4).scale[0], 1e-5F);
  EXPECT_EQ(encoded({.method = Method::kTwn}, zeros, 2, 4).scale[0], 0.0F);
  EXPECT_EQ(encoded({.method = Method::kTwn}, zeros, 2, 4).t, std::vector<int8_t>(8, 0));
  EXPECT_EQ(encoded({.method = Method::kLsq}, zeros, 2, 4, {.scale = {0.0F}}).scale[0], 1e-5F);
  EXPECT_EQ(encoded({.method = Method::kTga}, zeros, 2, 4, {.threshold = {0.0F}}).t, std::vector<int8_t>(8, 0));
  // One sign alone: the other one has nothing to average.
  const Encoded positive = encoded({.method = Method::kTwnAsymmetric}, {1, 3, 0, 0}, 1, 4);
  EXPECT_EQ(positive.t, (std::vector<int8_t>{1, 1, 0, 0}));
  EXPECT_EQ(positive.scale[0], 2.0F);
  EXPECT_EQ(positive.scale_neg[0], 0.0F);
  // w / s of exactly one half rounds to even, zero: mean of {1, 3} is 2, 1 / 2 is 0.5.
  EXPECT_EQ(encoded({}, {1.0F, -3.0F}, 1, 2).t, (std::vector<int8_t>{0, -1}));
  EXPECT_EQ(encoded({}, {-0.0F, 1e30F}, 1, 2).t, (std::vector<int8_t>{0, 1}));
  // A median that lies beside an outlier; of four values the lower one in the middle.
  EXPECT_EQ(encoded({.method = Method::kAbsmedian}, {1.0F, -2.0F, 3.0F, 1000.0F}, 1, 4).scale[0], 2.0F);
}

TEST(Encode, RefusesBadInput) {
  const float infinity = std::numeric_limits<float>::infinity();
  Encoded e;
  EXPECT_EQ(try_encode({}, {1, infinity}, 1, 2, e).error().message, "[encode] finite weights, got inf (index=1)");
  EXPECT_EQ(try_encode({.method = Method::kLsq}, {1, 2}, 1, 2, e, {.scale = {infinity}}).error().message,
            "[encode] finite learned parameters, got inf (index=0)");
  EXPECT_EQ(try_encode({}, {1, 2, 3}, 2, 2, e).error().code, ErrorCode::kShapeMismatch);
  std::vector<float> scale(1);
  for (const auto& [rows, depth] : {std::pair<int64_t, int64_t>{0, 5}, {5, 0}, {-1, -1}}) {
    const std::string expected =
        fmt::format("[encode] at least one row and one column, got [{}, {}] and 0 weights", rows, depth);
    EXPECT_EQ(encode({}, {}, rows, depth, {}, {{}, scale, {}, {}}).error().message, expected);
  }
  EXPECT_EQ(try_encode({.method = Method::kTtq}, {1, 2}, 1, 2, e, {.scale = {1.0F}}).error().message,
            "[encode] learned parameters of [1, 1] numbers for ttq/tensor, got [1, 0]");
  EXPECT_EQ(try_encode({.granularity = Granularity::kGroup}, std::vector<float>(64, 1e6F), 1, 64, e).error().message,
            "[encode] a scale within float16, got more (group=0)");
}

TEST(Method, LearnedParametersBeginAtAnothersFit) {
  const auto from = [](std::string_view text) { return to_text(beginning(parse_weight_spec(text).value()).value()); };
  EXPECT_EQ(from("lsq/channel/2:4/stochastic=3"), "absmean/channel/2:4");
  EXPECT_EQ(from("ttq/tensor/threshold=0.2"), "twn/tensor") << "c of ttq is in units of the maximum";
  EXPECT_EQ(from("tga/channel/threshold=0.5"), "twn/channel/threshold=0.5");
  EXPECT_EQ(from("tga"), "twn/tensor/threshold=0.7");
  EXPECT_EQ(beginning({}).error().message, "[quantization] a method that learns (ttq, lsq and tga), got absmean");
}

TEST(Method, EveryRowHasARule) {
  EXPECT_EQ(method_list().size(), 9U);
  for (size_t m = 0; m < method_list().size(); ++m) {
    const auto method = static_cast<Method>(m);
    const MethodRule& r = rule(method);
    const MethodInfo& i = info(method);
    EXPECT_EQ(i.rounds, r.threshold == MethodRule::Threshold::kHalfScale) << i.name;
    EXPECT_EQ(i.asymmetric, r.scale == MethodRule::Scale::kBestOfEachSign || i.learned.size() == 2) << i.name;
    EXPECT_NE(std::find(std::begin(i.source), std::end(i.source), ':'), std::end(i.source)) << i.name;
  }
}

TEST(Spec, TextsRoundTrip) {
  for (WeightSpec spec : all_specs()) {
    EXPECT_EQ(parse_weight_spec(to_text(spec)).value(), spec) << to_text(spec);
    if (!is_ternary(spec.method)) continue;
    for (const char* sparsity : {"1:2", "2:4", "3:4", "8:16"}) {
      spec.sparsity = parse_sparsity(sparsity).value();
      EXPECT_EQ(parse_weight_spec(to_text(spec)).value(), spec) << to_text(spec);
    }
    if (info(spec.method).rounds) {
      spec.rounding = Rounding::kStochastic;
      EXPECT_EQ(parse_weight_spec(to_text(spec)).value(), spec) << to_text(spec);
      spec.draw = std::numeric_limits<int64_t>::max();
      EXPECT_EQ(parse_weight_spec(to_text(spec)).value(), spec) << to_text(spec);
    }
    if (learns(spec.method)) continue;
    spec.gradient = Gradient::kTanh;
    EXPECT_EQ(parse_weight_spec(to_text(spec)).value(), spec) << to_text(spec);
  }
  EXPECT_EQ(to_text({.sparsity = Sparsity::k2of4, .rounding = Rounding::kStochastic, .draw = 5}),
            "absmean/tensor/2:4/stochastic=5");
  EXPECT_EQ(parse_weight_spec("twn/tensor/dense/nearest/ste").value(), WeightSpec{.method = Method::kTwn});
  EXPECT_EQ(to_text({}), "absmean/tensor");
  EXPECT_EQ(to_text({Method::kTwn, Granularity::kGroup, 64, 0.8, Gradient::kClipped}), "twn/group64/threshold=0.8/clipped");
  EXPECT_EQ(parse_weight_spec("twn").value(), WeightSpec{.method = Method::kTwn});
}

TEST(Spec, WhatDoesNotFitNamesWhatDoes) {
  const auto message = [](std::string_view text) { return parse_weight_spec(text).error().message; };
  EXPECT_EQ(message("tnw"),
            "[quantization] a method of {absmean, absmedian, twn, twn_asymmetric, ttq, lsq, tga, fixed, int8}, got 'tnw'");
  EXPECT_EQ(message("twn/row"), "[quantization] a granularity of {tensor, channel, group}, got 'row'");
  EXPECT_EQ(message("twn/group100"), "[quantization] groups of 64, 128 or 256, got 100");
  EXPECT_EQ(message("twn/tensor/soft"),
            "[quantization] an option of {threshold=, stochastic=, ste, clipped, tanh, dense, 1:2, 1:4, 2:4, 3:4, 2:8, 4:8, "
            "6:8, 4:16, 8:16, nearest, stochastic}, got 'soft'");
  EXPECT_EQ(message("absmean/tensor/stochastic=0"),
            "[quantization] a number above 0 behind stochastic=, got 'stochastic=0'");
  EXPECT_EQ(validate({.draw = 4}).error().message,
            "[quantization] a draw above 0 of stochastic rounding, got 4 for nearest");
  EXPECT_EQ(message("twn/tensor/stochastic"),
            "[quantization] nearest rounding for twn, which cuts (absmean, absmedian and lsq round), got stochastic");
  EXPECT_EQ(message("int8/tensor/2:4"), "[quantization] dense weights for int8, got 2:4");
  EXPECT_EQ(message("twn_asymmetric/group64"),
            "[quantization] tensor or channel scales for twn_asymmetric, which has two of them (absmean, absmedian, twn and "
            "fixed have groups), got group");
  EXPECT_EQ(message("twn/tensor/threshold=x"), "[quantization] a number behind threshold=, got 'threshold=x'");
  EXPECT_EQ(message("twn/tensor/threshold=-1"), "[quantization] a threshold of at least 0, got -1");
  EXPECT_EQ(message("absmean/tensor/threshold=1"),
            "[quantization] no threshold for absmean (twn, twn_asymmetric, ttq, tga and fixed have one), got 1");
  EXPECT_NE(message("ttq/group64").find("tensor or channel scales for ttq"), std::string::npos);
  EXPECT_EQ(message("int8/group64"), "[quantization] tensor or channel scales for int8, got group");
  EXPECT_EQ(message("int8/channel/tanh"), "[quantization] ste for int8, where nothing is far from its code, got tanh");
  EXPECT_EQ(message("lsq/tensor/tanh"),
            "[quantization] ste for lsq, whose paper gives the gradient (absmean, absmedian, twn, twn_asymmetric and fixed "
            "have others), got tanh");
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
  const auto row = oracle::quantize(std::vector<float>{-2.0F, 1.0F, 0.0F, 0.5F});
  EXPECT_EQ(row.q, (std::vector<int8_t>{-127, 64, 0, 32}));  // 63.5 rounds to even 64; 31.75 to 32
  EXPECT_EQ(row.scale, 1.0F / (127.0F / 2.0F));
  EXPECT_EQ(oracle::quantize(std::vector<float>{0.0F, 1e-9F}).q, (std::vector<int8_t>{0, 0}));
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
  EXPECT_EQ(name(ActKind::kInt4Static), "int4_static");
  EXPECT_EQ(parse_gradient("tanh").value(), Gradient::kTanh);
}

}  // namespace
}  // namespace bitlab::ternary
