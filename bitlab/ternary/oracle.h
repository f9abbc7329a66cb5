// The numeric contract as plain scalar code (docs/numerics.md): what every kernel is compared against. Slow on purpose: one
// operation a line, int64 sums.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace bitlab::ternary::oracle {

struct QuantizedRow {
  std::vector<int8_t> q;
  float scale;  // a = 1 / inv: x is about q * a
};

// How activations are quantized: to |q| <= limit, with a scale of their own or with a static step.
struct Activation {
  float limit = 127;
  float step = 0;  // 0: dynamic
};

// inv = limit / max(absmax, 1e-5), or 1 / step; q = clamp(rint(x * inv), -limit, limit); a = 1 / inv. x must be finite.
QuantizedRow quantize(std::span<const float> x, Activation activation = {});

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

// A ternary weight with K in canonical order, and what follows the product.
struct Weight {
  std::span<const int8_t> t;              // [rows, K]
  std::span<const float> scale;           // [1] or [rows]; [rows, ceil(K / group)] where group is given
  std::span<const float> scale_neg = {};  // as scale, or empty
  int64_t group = 0;
  std::span<const float> bias = {};  // [rows], or empty
};

// Ternary linear layer: x [tokens, depth], weight [rows, depth] -> y [tokens, rows]; activations by token.
std::vector<float> linear(std::span<const float> x, int64_t tokens, const Weight& weight, int64_t rows, int64_t depth,
                          Activation activation = {});
std::vector<float> linear(std::span<const float> x, int64_t tokens, std::span<const int8_t> t, int64_t rows, int64_t depth,
                          std::span<const float> scale, std::span<const float> bias);

struct ConvShape {
  using Sizes = std::array<int64_t, 3>;  // depth, height, width
  int64_t batch, channels;               // x [batch, channels, depth, height, width]
  Sizes input;
  int64_t filters;  // t [filters, kernel_d, kernel_h, kernel_w, channels / groups]
  Sizes kernel, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};
  int64_t groups = 1;
  bool transposed = false;
  Sizes output_padding{0, 0, 0};
  int64_t out(size_t d) const {
    const int64_t reach = dilation[d] * (kernel[d] - 1) + 1;
    if (transposed) return (input[d] - 1) * stride[d] - 2 * padding[d] + reach + output_padding[d];
    return (input[d] + 2 * padding[d] - reach) / stride[d] + 1;
  }
  int64_t positions() const { return out(0) * out(1) * out(2); }
};

// The sums of a convolution, padding with zeros: every input pixel is added to the output pixels that it reaches.
// q [batch, channels, depth, height, width] -> [batch, filters, out_d, out_h, out_w].
std::vector<int64_t> conv_sums(std::span<const int8_t> q, std::span<const int8_t> t, const ConvShape& shape);

// Ternary convolution, activations quantized per sample -> y [batch, filters, out_d, out_h, out_w].
std::vector<float> conv(std::span<const float> x, const Weight& weight, const ConvShape& shape, Activation activation = {});
std::vector<float> conv(std::span<const float> x, std::span<const int8_t> t, std::span<const float> scale,
                        std::span<const float> bias, const ConvShape& shape);

}  // namespace bitlab::ternary::oracle
