// The numeric contract as plain scalar code (docs/numerics.md): what every kernel is compared against. Slow on purpose: one
// operation a line, int64 sums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace bitlab::ternary::oracle {

struct QuantizedRow {
  std::vector<int8_t> q;
  float scale;  // a = 1 / inv: x is about q * a
};

// inv = 127 / max(absmax, 1e-5); q = clamp(rint(x * inv), -127, 127); a = 1 / inv. x must be finite.
QuantizedRow quantize_int8(std::span<const float> x);

// sum over k of t[k] * q[k].
int64_t dot(std::span<const int8_t> t, std::span<const int8_t> q);

// y = ((float(acc) * a) * s) + b, each step rounded to float32; no addition where bias is null.
float epilogue(int64_t acc, float a, float s, const float* bias);

// The contract's other forms, each step rounded to float32.
// (float(positive) * a) * s - (float(negative) * a) * s_neg; the sums of q over t = +1 and over t = -1.
float scaled_asymmetric(int64_t positive, int64_t negative, float a, float s, float s_neg);
// (sum over groups, ascending from 0, of float(acc) * s) * a.
float scaled_groups(std::span<const int64_t> acc, std::span<const float> s, float a);
// clamp(rint(y * inv), -limit, limit).
int8_t requantize(float y, float inv, float limit);

// Ternary linear layer: x [tokens, depth], t [rows, depth], scale [1 or rows], bias [rows] or empty -> y [tokens, rows].
std::vector<float> linear(std::span<const float> x, int64_t tokens, std::span<const int8_t> t, int64_t rows, int64_t depth,
                          std::span<const float> scale, std::span<const float> bias);

struct Conv2dShape {
  int64_t batch, channels, height, width;  // x [batch, channels, height, width]
  int64_t filters, kernel_h, kernel_w;     // t [filters, kernel_h, kernel_w, channels]
  int64_t stride_h = 1, stride_w = 1, padding_h = 0, padding_w = 0, dilation_h = 1, dilation_w = 1;
  int64_t out_h() const { return (height + 2 * padding_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_w() const { return (width + 2 * padding_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
};

// Ternary convolution, activations quantized per sample, padding with zeros -> y [batch, filters, out_h, out_w].
std::vector<float> conv2d(std::span<const float> x, std::span<const int8_t> t, std::span<const float> scale,
                          std::span<const float> bias, const Conv2dShape& shape);

}  // namespace bitlab::ternary::oracle
