// Weights for tests of encoders.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "bitlab/ternary/encode.h"

namespace bitlab::ternary::test {

// Zeros, and eight values whose mean shows the order of a float64 sum: 2^10 + 2^-14 lies between two floats, and six small values, of about
// half of the sum's last place together, decide which one is nearer, if they have not been rounded away. For at least 1000 values.
inline std::vector<float> order_sensitive_weights(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> w(static_cast<size_t>(count));
  const size_t large = generator() % w.size();
  w[large] = std::ldexp(1.0F, 10);
  for (int i = 0; i < 7;) {
    const size_t same_lane = (large % 16 + generator() % 40 * 16 + large / 4096 * 4096) % w.size(),
                 any = generator() % w.size();
    float& v = w[generator() % 2 == 0 ? same_lane : any];
    if (v != 0) continue;
    v = std::ldexp(generator() % 2 == 0 ? 1.0F : -1.0F, i == 0 ? -14 : -44 - static_cast<int>(generator() % 3));
    ++i;
  }
  return w;
}
inline constexpr double kBelowOrderSensitive = 1e-20;  // a threshold of `fixed` that keeps the eight values

// Values of what a method learns, for so many scales.
struct LearnedValues {
  std::vector<float> scale{}, scale_neg{}, threshold{};

  std::vector<float>& operator[](Parameter parameter) {
    return parameter == Parameter::kScale ? scale : parameter == Parameter::kScaleNeg ? scale_neg : threshold;
  }
  Learned view() const { return {scale, scale_neg, threshold}; }
};

// What a method has learned for one scale.
struct OneLearned {
  float scale, scale_neg, threshold;
};

// `make(count, seed)` for each parameter of the method.
template <class Make>
LearnedValues learned_values(Method method, int64_t scales, Make make) {
  LearnedValues values;
  uint32_t seed = 5;
  for (const Parameter parameter : info(method).learned) values[parameter] = make(scales, seed++);
  return values;
}

}  // namespace bitlab::ternary::test
