#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/rotary/rotary.h"

namespace bitlab::kernels {
namespace {

struct Frequencies {
  double theta;
  int64_t depth;
};

// libm in long double is the reference: no angle of a table is off by more than the rounding to float32.
TEST(RotaryTable, CosinesAndSinesAreRoundedOnce) {
  const std::vector<int64_t> positions{0, 1, 2, 3, 7, 100, 1023, 4096, 131071, 1 << 20, kMaxPosition};
  for (const Frequencies& c :
       {Frequencies{10000, 2}, {10000, 6}, {10000, 64}, {500000, 128}, {1e6, 256}, {1, 8}, {1e12, 128}}) {
    const auto half = static_cast<size_t>(c.depth / 2);
    std::vector<float> cosines(positions.size() * half), sines(cosines.size());
    ASSERT_TRUE(rotary_table(c.theta, c.depth, positions, cosines.data(), sines.data()).ok());
    for (size_t p = 0; p < positions.size(); ++p)
      for (size_t i = 0; i < half; ++i) {
        const long double frequency = std::pow(static_cast<long double>(c.theta),
                                               -2 * static_cast<long double>(i) / static_cast<long double>(c.depth));
        const long double angle = static_cast<long double>(positions[p]) * frequency;
        // The frequency has a relative error of some 2^-45 behind a chain of products, which the position multiplies.
        const double bound = 6e-8 + 1e-13 * static_cast<double>(angle);
        EXPECT_NEAR(cosines[p * half + i], static_cast<double>(std::cos(angle)), bound)
            << c.theta << " " << positions[p] << " " << i;
        EXPECT_NEAR(sines[p * half + i], static_cast<double>(std::sin(angle)), bound)
            << c.theta << " " << positions[p] << " " << i;
      }
  }
}

TEST(RotaryTable, RefusesPositionsOutsideOfItsRange) {
  float cosine = 0, sine = 0;
  for (const int64_t position : {int64_t{-1}, kMaxPosition + 1, INT64_MAX}) {
    const Status status = rotary_table(10000, 2, std::span(&position, 1), &cosine, &sine);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().message, "[rotary] positions from 0 to 16777216, got " + std::to_string(position));
  }
}

TEST(Rotary, RotatesPairsOfHalvesOnAnyNumberOfThreads) {
  for (const RotaryShape& shape : {RotaryShape{1, 1, 2}, {3, 5, 6}, {6, 17, 64}, {2, 1, 0}, {0, 3, 8}, {2, 0, 8}}) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(shape.outer * shape.tokens * shape.depth)), y(x.size()), one(x.size());
    for (float& v : x) v = normal(random);
    std::vector<int64_t> positions;
    for (int64_t t = 0; t < shape.tokens; ++t) positions.push_back(3 * t + 11);
    auto scratch = AlignedBuffer::allocate(static_cast<size_t>(rotary_scratch_bytes(shape)) + 64).value();
    for (const int threads : {1, 3}) {
      const auto pool = make_thread_pool(threads);
      ASSERT_TRUE(rotary(shape, 10000, positions.data(), x.data(), y.data(), scratch.data(), *pool).ok());
      if (threads == 1) one = y;
      EXPECT_EQ(y, one);
    }
    const int64_t half = shape.depth / 2;
    for (int64_t row = 0; row < shape.outer * shape.tokens; ++row)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(positions[static_cast<size_t>(row % shape.tokens)]) *
                             std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.depth));
        const auto at = static_cast<size_t>(row * shape.depth + i);
        const double a = x[at], b = x[at + static_cast<size_t>(half)];
        EXPECT_NEAR(y[at], a * std::cos(angle) - b * std::sin(angle), 1e-6);
        EXPECT_NEAR(y[at + static_cast<size_t>(half)], b * std::cos(angle) + a * std::sin(angle), 1e-6);
      }
  }
}

}  // namespace
}  // namespace bitlab::kernels
