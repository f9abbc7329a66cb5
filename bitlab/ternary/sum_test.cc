// The order of sums, and encoders on any number of threads, against a scalar reading of sum.h and methods.def: to the bit.
#include "bitlab/ternary/sum.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/ternary/encode.h"
#include "bitlab/ternary/internal/draw.h"
#include "bitlab/ternary/test_support.h"

namespace bitlab::ternary {
namespace {

// Over many orders of magnitude, so that the order of additions shows.
std::vector<float> wide_weights(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  std::uniform_int_distribution<int> exponent(-30, 8);
  std::vector<float> w(static_cast<size_t>(count));
  for (float& v : w) v = std::ldexp(normal(generator), exponent(generator));
  return w;
}

// The three steps, as the header has them.
double sum_by_the_text(const std::vector<double>& x) {
  std::vector<double> s;
  for (size_t begin = 0; begin < x.size(); begin += 4096) {
    double lane[16];
    for (size_t j = 0; j < 16; ++j) {
      lane[j] = 0;
      for (size_t i = j; i < 4096 && begin + i < x.size(); i += 16) lane[j] = lane[j] + x[begin + i];
    }
    for (size_t width : {8, 4, 2, 1})
      for (size_t j = 0; j < width; ++j) lane[j] = lane[j] + lane[j + width];
    s.push_back(lane[0]);
  }
  while (s.size() > 1) {
    std::vector<double> up;
    for (size_t i = 0; 2 * i < s.size(); ++i) up.push_back(2 * i + 1 < s.size() ? s[2 * i] + s[2 * i + 1] : s[2 * i]);
    s = up;
  }
  return s[0];
}

TEST(Sum, FollowsTheThreeSteps) {
  int differs_from_serial = 0;
  for (int64_t n : {1, 15, 16, 17, 33, 4095, 4096, 4097, 3 * 4096 + 5, 5 * 4096, 7 * 4096 - 1, 31 * 4096 + 17, 1 << 20}) {
    const auto w = wide_weights(n, static_cast<uint32_t>(n));
    const std::vector<double> x(w.begin(), w.end());
    const auto sum = [](std::span<const float> values) { return ordered_sum(values, [](float v) { return double{v}; }); };
    EXPECT_EQ(sum(w), sum_by_the_text(x)) << n;
    differs_from_serial += sum(w) != std::accumulate(x.begin(), x.end(), 0.0) ? 1 : 0;
    // Zeros behind the last value.
    auto padded = w;
    padded.resize(w.size() + 3 * 4096 - 7);
    EXPECT_EQ(sum(padded), sum(w)) << n;
  }
  EXPECT_GT(differs_from_serial, 6) << "values for which an order shows";
}

TEST(Sum, PiecesOfAPowerOfTwoAreSubtrees) {
  for (size_t blocks : {1, 2, 3, 5, 8, 13, 64, 257}) {
    const auto w = wide_weights(static_cast<int64_t>(blocks * kSumBlock - 3), 5);
    const auto leaf = [&](size_t i) { return sum_in_block(sum_block(std::span(w), i), [](float v) { return double{v}; }); };
    for (size_t piece : {1, 2, 4, 16}) {
      const double shared = tree_sum((blocks + piece - 1) / piece, [&](size_t i) {
        return tree_sum(std::min(piece, blocks - i * piece), leaf, i * piece);
      });
      EXPECT_EQ(shared, tree_sum(blocks, leaf)) << blocks << " in pieces of " << piece;
    }
  }
}

struct Expected {
  std::vector<int8_t> t;
  float scale, scale_neg, threshold;
};

// The weights that share a scale: all of them, those that a pattern keeps (zeros for others), and random numbers where there is a draw.
struct Shared {
  std::vector<float> w, kept, random;
};

Expected rounded(const Shared& part, float s, float limit) {
  Expected e{{}, s, s, s / 2};
  for (size_t i = 0; i < part.w.size(); ++i) {
    const float ratio = std::clamp(part.kept[i] / s, -limit, limit);
    float code = std::nearbyint(ratio);
    if (!part.random.empty()) {
      const float toward_zero = std::trunc(ratio), rest = std::fabs(ratio - toward_zero);
      code = toward_zero + (part.random[i] < rest ? std::copysign(1.0F, ratio) : 0.0F);
    }
    e.t.push_back(static_cast<int8_t>(code));
  }
  return e;
}

// The mean of |w| where keep(w), in the order of the text.
template <class Keep>
float mean_where(const Shared& part, Keep keep) {
  std::vector<double> kept;
  double count = 0;
  for (float v : part.kept) {
    kept.push_back(keep(v) ? std::fabs(double{v}) : 0.0);
    count += keep(v) ? 1 : 0;
  }
  return count == 0 ? 0.0F : static_cast<float>(sum_by_the_text(kept) / count);
}

Expected cut(const Shared& part, float threshold) {
  Expected e{{}, 0, 0, threshold};
  for (float v : part.kept) e.t.push_back(static_cast<int8_t>(std::fabs(v) > threshold ? (v > 0 ? 1 : -1) : 0));
  e.scale = e.scale_neg = mean_where(part, [=](float v) { return std::fabs(v) > threshold; });
  return e;
}

// methods.def, for the weights that share a scale.
Expected by_the_text(const WeightSpec& spec, const Shared& part, const test::OneLearned& learned) {
  std::vector<double> size;
  for (float v : part.w) size.push_back(std::fabs(double{v}));
  const double c = coefficient(spec);
  const auto mean = [&] { return sum_by_the_text(size) / static_cast<double>(size.size()); };
  const auto most = [&] { return *std::max_element(size.begin(), size.end()); };
  switch (spec.method) {
    case Method::kAbsmean:
      return rounded(part, std::max(static_cast<float>(mean()), 1e-5F), 1);
    case Method::kAbsmedian:
      std::sort(size.begin(), size.end());
      return rounded(part, std::max(static_cast<float>(size[(size.size() - 1) / 2]), 1e-5F), 1);
    case Method::kTwn:
      return cut(part, static_cast<float>(c * mean()));
    case Method::kTwnAsymmetric: {
      Expected e = cut(part, static_cast<float>(c * mean()));
      e.scale = mean_where(part, [&](float v) { return v > e.threshold; });
      e.scale_neg = mean_where(part, [&](float v) { return -v > e.threshold; });
      return e;
    }
    case Method::kTga:
      return cut(part, std::fabs(learned.threshold));
    case Method::kFixed:
      return cut(part, static_cast<float>(c));
    case Method::kLsq:
      return rounded(part, std::max(std::fabs(learned.scale), 1e-5F), 1);
    case Method::kInt8:
      return rounded(part, std::max(static_cast<float>(most()), 1e-5F) / 127, 127);
    case Method::kTtq: {
      Expected e = cut(part, static_cast<float>(c * most()));
      e.scale = learned.scale;
      e.scale_neg = learned.scale_neg;
      return e;
    }
  }
  return {};
}

// What sparsity.def keeps: each block of a row sorted by size, equal ones as they stand.
std::vector<float> pruned(const WeightSpec& spec, const std::vector<float>& w, int64_t depth) {
  const auto [kept, of] = pattern(spec.sparsity);
  std::vector<float> left = w;
  const auto size = [&](int64_t i) { return std::fabs(w[static_cast<size_t>(i)]); };
  for (int64_t row = 0; of != 0 && row < static_cast<int64_t>(w.size()); row += depth)
    for (int64_t begin = row; begin < row + depth; begin += of) {
      std::vector<int64_t> block(static_cast<size_t>(std::min<int64_t>(of, row + depth - begin)));
      std::iota(block.begin(), block.end(), begin);
      std::stable_sort(block.begin(), block.end(), [&](int64_t a, int64_t b) { return size(a) > size(b); });
      for (size_t i = static_cast<size_t>(kept); i < block.size(); ++i) left[static_cast<size_t>(block[i])] = 0;
    }
  return left;
}

// SplitMix64 as it is published, a state that advances; its n-th output is mix(seed + n g).
struct SplitMix64 {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
};

std::vector<float> random_numbers(const WeightSpec& spec, size_t count) {
  std::vector<float> numbers;
  if (spec.draw == 0) return numbers;
  const uint64_t key = SplitMix64{static_cast<uint64_t>(spec.draw) - 0x9e3779b97f4a7c15}();
  SplitMix64 generator{key - 0x9e3779b97f4a7c15};  // its first output is that of index 0
  while (numbers.size() < count)
    numbers.push_back(static_cast<float>(std::ldexp(static_cast<double>(generator() >> 40), -24)));
  return numbers;
}

TEST(Draw, IsSplitMix64) {
  // The first outputs for the seed 1234567, as they are published with the generator's reference code.
  const uint64_t published[] = {6457827717110365317U, 3203168211198807973U, 9817491932198370423U, 4593380528125082431U,
                                16408922859458223821U};
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(mix(1234567 + (i + 1) * kDrawIncrement), published[i]);
  EXPECT_EQ(uniform(0, 0), 0.0F);
}

struct Evaluated {
  std::vector<int8_t> t;
  std::vector<float> scale, scale_neg, threshold;
  bool operator==(const Evaluated&) const = default;
};

struct SumCase {
  WeightSpec spec;
  int64_t rows, depth;
  std::vector<float> w;
  test::LearnedValues learned;

  SumCase(const WeightSpec& spec_, int64_t rows_, int64_t depth_)
      : spec(spec_), rows(rows_), depth(depth_), w(wide_weights(rows * depth, 3)) {
    learned = test::learned_values(spec.method, scale_count(spec, rows, depth), wide_weights);
  }

  Evaluated expected() const {
    Evaluated all;
    const int64_t length = spec.granularity == Granularity::kTensor ? rows * depth : depth;
    const int64_t step = spec.granularity == Granularity::kGroup ? spec.group : length;
    const std::vector<float> kept = pruned(spec, w, depth), random = random_numbers(spec, w.size());
    for (int64_t row = 0; row < rows * depth / length; ++row)
      for (int64_t k = 0; k < length; k += step) {
        const size_t i = all.scale.size();
        const auto piece = [&](const std::vector<float>& values) {
          const auto begin = values.begin() + (row * length + k);
          return values.empty() ? values : std::vector<float>(begin, begin + std::min(step, length - k));
        };
        const auto own = [&](const std::vector<float>& values) { return values.empty() ? 0.0F : values[i]; };
        const Expected e = by_the_text(spec, {piece(w), piece(kept), piece(random)},
                                       {own(learned.scale), own(learned.scale_neg), own(learned.threshold)});
        all.t.insert(all.t.end(), e.t.begin(), e.t.end());
        all.scale.push_back(spec.granularity == Granularity::kGroup ? half_to_float(float_to_half(e.scale)) : e.scale);
        if (info(spec.method).asymmetric) all.scale_neg.push_back(e.scale_neg);
        all.threshold.push_back(e.threshold);
      }
    return all;
  }

  Result<Evaluated> encoded(ThreadPool* pool) const {
    const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
    Evaluated e{std::vector<int8_t>(w.size(), 99), std::vector<float>(scales), {}, std::vector<float>(scales)};
    if (info(spec.method).asymmetric) e.scale_neg.resize(scales);
    BITLAB_RETURN_IF_ERROR(encode(spec, w, rows, depth, learned.view(), {e.t, e.scale, e.scale_neg, e.threshold}, pool));
    return e;
  }
};

std::vector<WeightSpec> specs_of_sums() {
  std::vector<WeightSpec> specs;
  for (size_t m = 0; m < method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup}) {
      const WeightSpec spec{.method = static_cast<Method>(m), .granularity = granularity, .group = 64};
      if (validate(spec).ok()) specs.push_back(spec);
      for (const Sparsity sparsity : {Sparsity::k2of4, Sparsity::k3of4, Sparsity::k6of8}) {
        WeightSpec sparse = spec;
        sparse.sparsity = sparsity;
        if (validate(sparse).ok() && (sparsity == Sparsity::k2of4 || granularity == Granularity::kTensor))
          specs.push_back(sparse);
      }
      WeightSpec random = spec;
      random.rounding = Rounding::kStochastic;
      random.draw = 1234567;
      if (validate(random).ok()) specs.push_back(random);
    }
  specs.push_back({.sparsity = Sparsity::k2of4, .rounding = Rounding::kStochastic, .draw = int64_t{1} << 62});
  return specs;
}

class Threads : public testing::Test {
 protected:
  void each_pool(const SumCase& data) {
    const Evaluated expected = data.expected();
    EXPECT_TRUE(data.encoded(nullptr).value() == expected) << to_text(data.spec) << " " << data.rows << " " << data.depth;
    for (const auto& pool : pools_)
      EXPECT_TRUE(data.encoded(pool.get()).value() == expected)
          << to_text(data.spec) << " [" << data.rows << ", " << data.depth << "], threads: " << pool->threads();
  }
  std::vector<std::unique_ptr<ThreadPool>> pools_ = [] {
    std::vector<std::unique_ptr<ThreadPool>> pools;
    for (int threads : {1, 3, 8}) pools.push_back(make_thread_pool(threads));
    return pools;
  }();
};

TEST_F(Threads, ChangeNoBitOfAnyMethod) {
  std::vector<std::pair<int64_t, int64_t>> shapes{{1, 1},      {1, 15},     {1, 16},     {1, 17},     {1, 4095},
                                                  {1, 4096},   {1, 4097},   {1, 12'293}, {3, 12'293}, {7, 4097},
                                                  {2, 50'001}, {3, 32'771}, {129, 301},  {1000, 1}};
  for (const WeightSpec& spec : specs_of_sums()) {
    const bool plain = spec.sparsity == Sparsity::kDense && spec.draw == 0;
    for (auto [rows, depth] : shapes)
      if (plain || rows * depth < 50'000) each_pool(SumCase(spec, rows, depth));
    if (plain && spec.granularity == Granularity::kTensor) each_pool(SumCase(spec, 1, 1 << 18));
  }
}

// Float scales hide the last bits of most sums; not of these.
TEST_F(Threads, AddInOneOrder) {
  int differs_from_serial = 0, trials = 0;
  for (int64_t n : {1024, 4096, 4097, 8192, 3 * 4096 + 5, 8 * 4096, 65'536, 25 * 4096 - 1, 1 << 18})
    for (uint32_t seed = 0; seed < (n > 3 * static_cast<int64_t>(kSumBlock) ? 6 : 30); ++seed) {
      const bool power_of_two = std::has_single_bit(static_cast<uint64_t>(n));
      for (Method method : {Method::kFixed, Method::kAbsmean}) {
        if (method == Method::kAbsmean && (!power_of_two || n > 65'536)) continue;  // the mean is then no tie, or below 1e-5
        SumCase data({.method = method, .threshold = method == Method::kFixed ? test::kBelowOrderSensitive : 0}, 1, n);
        data.w = test::order_sensitive_weights(n, seed);
        each_pool(data);
        const double serial =
            std::accumulate(data.w.begin(), data.w.end(), 0.0, [](double a, float b) { return a + std::fabs(b); });
        const double count = method == Method::kFixed ? 8 : static_cast<double>(n);
        differs_from_serial += data.expected().scale[0] != static_cast<float>(serial / count) ? 1 : 0;
        ++trials;
      }
    }
  EXPECT_GT(differs_from_serial, trials / 20) << "weights for which an order shows";
}

TEST_F(Threads, FindWhatIsNotFinite) {
  for (const WeightSpec& spec : specs_of_sums())
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
      for (size_t index : {0, 70'000}) {
        const bool plain = spec.sparsity == Sparsity::kDense && spec.draw == 0;
        if (!plain && (index == 0 || !std::isnan(bad))) continue;  // one place is enough where the search is the same
        SumCase data(spec, 2, 35'003);
        data.w[index] = bad;
        data.w[70'005] = std::numeric_limits<float>::infinity();  // the first one is named
        for (const auto& pool : pools_)
          EXPECT_EQ(data.encoded(pool.get()).error().message,
                    fmt::format("[encode] finite weights, got {} (index={})", bad, index))
              << to_text(spec);
      }
}

TEST_F(Threads, SumsDoNotOverflowWhereWeightsAreLargest) {
  for (const WeightSpec& spec : specs_of_sums()) {
    if (spec.granularity == Granularity::kGroup) continue;
    SumCase data(spec, 2, 20'000);
    std::fill(data.w.begin(), data.w.end(), std::numeric_limits<float>::max());
    each_pool(data);
  }
}

// Ties go to the lower k, whatever the sign; a short block at the end of a row keeps up to N.
TEST(Sparsity, KeepsTheLargestOfEachBlock) {
  const WeightSpec spec{.method = Method::kFixed, .threshold = 0.5, .sparsity = Sparsity::k2of4};
  SumCase data(spec, 2, 7);
  data.w = {1, -1, 1, 1, 2, 0.1F, -3, /* row 2 */ 0.25F, 4, -5, 3, 0, 0, 0};
  const Evaluated e = data.encoded(nullptr).value();
  EXPECT_EQ(e.t, (std::vector<int8_t>{1, -1, 0, 0, 1, 0, -1, 0, 1, -1, 0, 0, 0, 0}));
  EXPECT_EQ(e.scale[0], (1 + 1 + 2 + 3 + 4 + 5) / 6.0F);
  data.w = {1, 2, 3, 4, 1, 2, 3, 1, 1, 1, 1, 1, 1, 1};  // the last three of a row: two are left
  EXPECT_EQ(data.encoded(nullptr).value().t, (std::vector<int8_t>{0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0}));
}

// The mean of many draws is the weight, clamped; one draw differs from the next.
TEST(Rounding, IsRightOnAverage) {
  SumCase data({.method = Method::kLsq, .rounding = Rounding::kStochastic, .draw = 1}, 1, 64);
  data.learned.scale = {2};
  for (size_t i = 0; i < 64; ++i) data.w[i] = (static_cast<float>(i) - 32) / 12;
  std::vector<double> mean(64);
  constexpr int kDraws = 4000;
  std::vector<int8_t> last;
  int changed = 0;
  for (data.spec.draw = 1; data.spec.draw <= kDraws; ++data.spec.draw) {
    const Evaluated e = data.encoded(nullptr).value();
    for (size_t i = 0; i < 64; ++i) mean[i] += e.t[i] * 2.0 / kDraws;
    changed += e.t != last ? 1 : 0;
    last = e.t;
  }
  EXPECT_EQ(changed, kDraws);
  for (size_t i = 0; i < 64; ++i)
    EXPECT_NEAR(mean[i], std::clamp(double{data.w[i]}, -2.0, 2.0), 6 * 2 * 0.5 / std::sqrt(kDraws));
  data.spec.draw = 0;
  EXPECT_TRUE(data.encoded(nullptr).value() == data.expected()) << "without a draw codes are the nearest ones";
}

// The median finds a value by its bits: equal ones, zeros of both signs, subnormals.
TEST_F(Threads, MediansOfFewValues) {
  std::mt19937 generator(1);
  const float tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> values{0.0F, -0.0F, tiny, -3 * tiny, 1.0F, -1.0F, std::nextafter(1.0F, 2.0F), 2.0F, 1e30F};
  for (int64_t n = 1; n < 40; ++n) {
    SumCase data({.method = Method::kAbsmedian}, 1, n);
    for (float& v : data.w) v = values[generator() % values.size()];
    each_pool(data);
  }
}

}  // namespace
}  // namespace bitlab::ternary
