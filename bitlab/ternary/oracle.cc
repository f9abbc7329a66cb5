#include "bitlab/ternary/oracle.h"

#include <algorithm>
#include <cmath>

#include "bitlab/ternary/spec.h"

namespace bitlab::ternary::oracle {

QuantizedRow quantize_int8(std::span<const float> x) {
  float absmax = 0;
  for (float v : x) absmax = std::max(absmax, std::fabs(v));
  const float inv = static_cast<float>(kActMax) / std::max(absmax, kActEpsilon);
  QuantizedRow row;
  row.scale = 1.0F / inv;
  for (float v : x) {
    const float scaled = v * inv;
    const float rounded = std::nearbyint(scaled);
    row.q.push_back(static_cast<int8_t>(std::clamp(rounded, -static_cast<float>(kActMax), static_cast<float>(kActMax))));
  }
  return row;
}

int64_t dot(std::span<const int8_t> t, std::span<const int8_t> q) {
  int64_t sum = 0;
  for (size_t k = 0; k < t.size(); ++k) sum += int64_t{t[k]} * int64_t{q[k]};
  return sum;
}

float epilogue(int64_t acc, float a, float s, const float* bias) {
  const auto exact = static_cast<float>(acc);
  const float in_x = exact * a;
  const float in_y = in_x * s;
  return bias == nullptr ? in_y : in_y + *bias;
}

float scaled_asymmetric(int64_t positive, int64_t negative, float a, float s, float s_neg) {
  const float plus_in_x = static_cast<float>(positive) * a;
  const float minus_in_x = static_cast<float>(negative) * a;
  const float plus = plus_in_x * s;
  const float minus = minus_in_x * s_neg;
  return plus - minus;
}

float scaled_groups(std::span<const int64_t> acc, std::span<const float> s, float a) {
  float total = 0;
  for (size_t g = 0; g < acc.size(); ++g) {
    const float product = static_cast<float>(acc[g]) * s[g];
    total = total + product;
  }
  return total * a;
}

int8_t requantize(float y, float inv, float limit) {
  const float scaled = y * inv;
  return static_cast<int8_t>(std::clamp(std::nearbyint(scaled), -limit, limit));
}

std::vector<float> linear(std::span<const float> x, int64_t tokens, std::span<const int8_t> t, int64_t rows, int64_t depth,
                          std::span<const float> scale, std::span<const float> bias) {
  std::vector<float> y;
  for (int64_t token = 0; token < tokens; ++token) {
    const QuantizedRow row = quantize_int8(x.subspan(token * depth, depth));
    for (int64_t n = 0; n < rows; ++n)
      y.push_back(epilogue(dot(t.subspan(n * depth, depth), row.q), row.scale, scale[scale.size() == 1 ? 0 : n],
                           bias.empty() ? nullptr : &bias[n]));
  }
  return y;
}

std::vector<float> conv2d(std::span<const float> x, std::span<const int8_t> t, std::span<const float> scale,
                          std::span<const float> bias, const Conv2dShape& s) {
  std::vector<float> y;
  const int64_t plane = s.height * s.width;
  for (int64_t b = 0; b < s.batch; ++b) {
    const QuantizedRow sample = quantize_int8(x.subspan(b * s.channels * plane, s.channels * plane));
    for (int64_t n = 0; n < s.filters; ++n)
      for (int64_t oy = 0; oy < s.out_h(); ++oy)
        for (int64_t ox = 0; ox < s.out_w(); ++ox) {
          int64_t acc = 0;
          for (int64_t ky = 0; ky < s.kernel_h; ++ky)
            for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
              const int64_t iy = oy * s.stride_h - s.padding_h + ky * s.dilation_h;
              const int64_t ix = ox * s.stride_w - s.padding_w + kx * s.dilation_w;
              if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
              for (int64_t c = 0; c < s.channels; ++c)
                acc += int64_t{t[((n * s.kernel_h + ky) * s.kernel_w + kx) * s.channels + c]} *
                       int64_t{sample.q[c * plane + iy * s.width + ix]};
            }
          y.push_back(epilogue(acc, sample.scale, scale[scale.size() == 1 ? 0 : n], bias.empty() ? nullptr : &bias[n]));
        }
  }
  return y;
}

}  // namespace bitlab::ternary::oracle
