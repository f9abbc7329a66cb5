// For tests and fuzzers: small decoders with random weights.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "bitlab/base/internal/half.h"
#include "bitlab/format/decoder/decoder.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::decoder::test {

inline std::vector<float> random_floats(size_t count, std::mt19937& random) {
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random);
  return values;
}

inline std::vector<int8_t> random_codes(size_t count, std::mt19937& random) {
  std::vector<int8_t> t(count);
  for (int8_t& value : t) value = static_cast<int8_t>(static_cast<int>(random() % 3) - 1);
  return t;
}

inline std::vector<uint8_t> packed(const std::vector<int8_t>& t, int64_t rows, int64_t depth) {
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(t, rows, depth, codes);
  return codes;
}

// Two layers, 4 heads in 2 groups; dim 64 and hidden 128, so that blocks of 64 fit, or four times that.
inline Config small_config(bool sub_norms, Activation activation, int64_t times = 1) {
  return {.vocabulary = 11,
          .context = 12,
          .layers = 2,
          .dim = 64 * times,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16 * times,
          .hidden = 128 * times,
          .norm_eps = 0x1p-17,  // a number that float32 holds
          .rope_theta = 10000,
          .activation = activation,
          .sub_norms = sub_norms};
}

// The same of an encoder, of which a token has 64 values, or four times that; heads of an odd number of values are not in it.
inline Config small_encoder(Pooling pooling, Activation activation, int64_t times = 1) {
  Config config = small_config(false, activation, times);
  config.kv_heads = 4;
  config.rope_theta = 0;
  config.kind = Kind::kEncoder;
  config.pooling = pooling;
  config.classes = pooling == Pooling::kClassifier ? 3 : 0;
  config.has_types = pooling != Pooling::kMean;
  return config;
}

enum class Scales { kTensor, kRows, kGroups };

struct Options {
  Scales scales = Scales::kTensor;
  int64_t group = 64;
  float scale = 0.5F;
  bool tied = true, biases = false;
  program::Storage table = program::Storage::kPlain;
};

inline Source random_source(const Config& config, const Options& options, std::mt19937& random) {
  return [&config, options, &random](Part part, int64_t) -> Result<std::optional<Weight>> {
    if (part == Part::kHead && options.tied) return std::optional<Weight>();
    const std::vector<int64_t> shape = shape_of(config, part);
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    if (!info(part).is_matrix) {
      Weight vector{shape, random_floats(count, random)};
      if (config.kind == Kind::kEncoder && part != Part::kTypeEmbedding) vector.bias = random_floats(count, random);
      return std::optional(std::move(vector));
    }
    const int64_t rows = shape[0], depth = shape[1];
    if (part == Part::kEmbedding || part == Part::kHead || part == Part::kPositionEmbedding) {
      const std::vector<float> values = random_floats(count, random);
      if (options.table == program::Storage::kPlain) return std::optional(Weight{shape, values});
      Halves halves{{}, options.table};
      for (const float value : values)
        halves.bits.push_back(options.table == program::Storage::kFloat16 ? float_to_half(value) : float_to_bfloat(value));
      return std::optional(Weight{shape, std::move(halves)});
    }
    program::TernaryScales scales{options.scale};
    const bool grouped =
        options.scales == Scales::kGroups && depth > options.group;  // one group a row is a scale of the row
    if (options.scales != Scales::kTensor && !grouped)
      for (int64_t row = 1; row < rows; ++row) scales.scale.push_back(0.25F * static_cast<float>(1 + row % 7));
    if (grouped) {
      scales = {};
      scales.group = options.group;
      for (int64_t i = 0; i < rows * ((depth + options.group - 1) / options.group); ++i)
        scales.group_scale.push_back(static_cast<uint16_t>(0x3000 + i));
    }
    Weight weight{shape, Ternary{packed(random_codes(count, random), rows, depth), std::move(scales)}};
    if (options.biases) weight.bias = random_floats(static_cast<size_t>(rows), random);
    return std::optional(std::move(weight));
  };
}

inline program::Program random_decoder(const Config& config, const Options& options = {}) {
  std::mt19937 random(7);
  return build(config, random_source(config, options, random), "test").value();
}

}  // namespace bitlab::format::decoder::test
