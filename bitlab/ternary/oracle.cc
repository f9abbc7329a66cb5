#include "bitlab/ternary/oracle.h"

#include <algorithm>
#include <cmath>

#include "bitlab/ternary/spec.h"

namespace bitlab::ternary::oracle {

QuantizedRow quantize(std::span<const float> x, Activation activation) {
  float absmax = 0;
  for (float v : x) absmax = std::max(absmax, std::fabs(v));
  const float inv = activation.step != 0 ? 1.0F / activation.step : activation.limit / std::max(absmax, kActEpsilon);
  QuantizedRow row;
  row.scale = 1.0F / inv;
  for (float v : x) {
    const float scaled = v * inv;
    const float rounded = std::nearbyint(scaled);
    row.q.push_back(static_cast<int8_t>(std::clamp(rounded, -activation.limit, activation.limit)));
  }
  return row;
}

int64_t dot(std::span<const int8_t> t, std::span<const int8_t> q) {
  int64_t sum = 0;
  for (size_t k = 0; k < t.size(); ++k) sum += t[k] * q[k];  // products of int, sums of int64_t
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

namespace {

// The output coordinate that input i reaches through tap k; -1 where there is none.
int64_t reached(const ConvShape& s, size_t d, int64_t i, int64_t k) {
  int64_t o = i * s.stride[d] - s.padding[d] + k * s.dilation[d];
  if (!s.transposed) {
    const int64_t spread = i + s.padding[d] - k * s.dilation[d];
    if (spread < 0 || spread % s.stride[d] != 0) return -1;
    o = spread / s.stride[d];
  }
  return o >= 0 && o < s.out(d) ? o : -1;
}

// Calls f(index) for every index below `sizes`.
template <class F>
void for_each_index(const ConvShape::Sizes& sizes, const F& f) {
  for (int64_t z = 0; z < sizes[0]; ++z)
    for (int64_t y = 0; y < sizes[1]; ++y)
      for (int64_t x = 0; x < sizes[2]; ++x) f(ConvShape::Sizes{z, y, x});
}

int64_t flat(const ConvShape::Sizes& index, const ConvShape::Sizes& sizes) {
  return (index[0] * sizes[1] + index[1]) * sizes[2] + index[2];
}

}  // namespace

std::vector<int64_t> conv_sums(std::span<const int8_t> q, std::span<const int8_t> t, const ConvShape& s) {
  const ConvShape::Sizes out{s.out(0), s.out(1), s.out(2)};
  const int64_t own = s.channels / s.groups, filters = s.filters / s.groups;
  const int64_t plane = s.input[0] * s.input[1] * s.input[2], taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
  std::vector<int64_t> sums(static_cast<size_t>(s.batch * s.filters * s.positions()));
  for (int64_t b = 0; b < s.batch; ++b)
    for_each_index(s.input, [&](const ConvShape::Sizes& i) {
      for_each_index(s.kernel, [&](const ConvShape::Sizes& k) {
        const ConvShape::Sizes o{reached(s, 0, i[0], k[0]), reached(s, 1, i[1], k[1]), reached(s, 2, i[2], k[2])};
        if (o[0] < 0 || o[1] < 0 || o[2] < 0) return;
        for (int64_t n = 0; n < s.filters; ++n)
          for (int64_t c = 0; c < own; ++c) {
            const int64_t channel = n / filters * own + c;
            sums[static_cast<size_t>((b * s.filters + n) * s.positions() + flat(o, out))] +=
                int64_t{t[static_cast<size_t>((n * taps + flat(k, s.kernel)) * own + c)]} *
                int64_t{q[static_cast<size_t>((b * s.channels + channel) * plane + flat(i, s.input))]};
          }
      });
    });
  return sums;
}

namespace {

// The weights for which keep(k, t) holds; zeros for the others.
template <class Keep>
std::vector<int8_t> only(std::span<const int8_t> t, int64_t depth, Keep keep) {
  std::vector<int8_t> kept(t.begin(), t.end());
  for (size_t i = 0; i < kept.size(); ++i)
    if (!keep(static_cast<int64_t>(i) % depth, t[i])) kept[i] = 0;
  return kept;
}

}  // namespace

std::vector<float> conv(std::span<const float> x, const Weight& weight, const ConvShape& s, Activation activation) {
  std::vector<float> y, a;
  std::vector<int8_t> q;
  const int64_t values = s.channels * s.input[0] * s.input[1] * s.input[2];
  for (int64_t b = 0; b < s.batch; ++b) {
    const QuantizedRow sample = quantize(x.subspan(b * values, values), activation);
    q.insert(q.end(), sample.q.begin(), sample.q.end());
    a.push_back(sample.scale);
  }
  const int64_t depth = s.kernel[0] * s.kernel[1] * s.kernel[2] * (s.channels / s.groups);
  std::vector<std::vector<int64_t>> parts;  // the sums that scales meet one by one
  if (weight.group != 0) {
    for (int64_t begin = 0; begin < depth; begin += weight.group)
      parts.push_back(
          conv_sums(q, only(weight.t, depth, [&](int64_t k, int8_t) { return k >= begin && k < begin + weight.group; }), s));
  } else if (!weight.scale_neg.empty()) {
    parts = {conv_sums(q, only(weight.t, depth, [](int64_t, int8_t t) { return t > 0; }), s),
             conv_sums(q, only(weight.t, depth, [](int64_t, int8_t t) { return t < 0; }), s)};
  } else {
    parts = {conv_sums(q, weight.t, s)};
  }
  for (size_t i = 0; i < parts[0].size(); ++i) {
    const size_t n = i / static_cast<size_t>(s.positions()) % static_cast<size_t>(s.filters);
    const float in_x = a[i / static_cast<size_t>(s.positions() * s.filters)];
    const size_t scale = weight.scale.size() == 1 ? 0 : n;
    const float* bias = weight.bias.empty() ? nullptr : &weight.bias[n];
    float value = 0;
    if (weight.group != 0) {
      std::vector<int64_t> sums;
      for (const auto& part : parts) sums.push_back(part[i]);
      value = scaled_groups(sums, weight.scale.subspan(n * parts.size(), parts.size()), in_x);
    } else if (!weight.scale_neg.empty()) {
      value = scaled_asymmetric(parts[0][i], -parts[1][i], in_x, weight.scale[scale], weight.scale_neg[scale]);
    } else {
      value = epilogue(parts[0][i], in_x, weight.scale[scale], nullptr);
    }
    y.push_back(bias == nullptr ? value : value + *bias);
  }
  return y;
}

std::vector<float> linear(std::span<const float> x, int64_t tokens, const Weight& weight, int64_t rows, int64_t depth,
                          Activation activation) {
  // One pixel a token, one channel a k.
  return conv(x, weight, {.batch = tokens, .channels = depth, .input = {1, 1, 1}, .filters = rows, .kernel = {1, 1, 1}},
              activation);
}

std::vector<float> linear(std::span<const float> x, int64_t tokens, std::span<const int8_t> t, int64_t rows, int64_t depth,
                          std::span<const float> scale, std::span<const float> bias) {
  return linear(x, tokens, {.t = t, .scale = scale, .bias = bias}, rows, depth);
}

std::vector<float> conv(std::span<const float> x, std::span<const int8_t> t, std::span<const float> scale,
                        std::span<const float> bias, const ConvShape& s) {
  return conv(x, {.t = t, .scale = scale, .bias = bias}, s);
}

}  // namespace bitlab::ternary::oracle
