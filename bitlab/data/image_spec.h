// How pictures become a network's input. Training and deployment use this one description and this one function, so they feed the
// same bits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

struct ImageSpec {
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  std::vector<float> mean;          // by channel, of values in [0, 1]
  std::vector<float> std;           // by channel, positive
  std::vector<std::string> labels;  // names of the classes

  int64_t values() const { return channels * height * width; }
  bool operator==(const ImageSpec&) const = default;

  std::string to_json() const;
  // Errors: Corrupt (not JSON, another form, sizes outside of 1 to 16,384, numbers that are not finite, std <= 0).
  static Result<ImageSpec> from_json(std::string_view text);
};

// out = (u / 255 - mean) / std in float32, each step rounded. pixels and out: [count, channels, height, width].
void normalize(const ImageSpec& spec, std::span<const uint8_t> pixels, std::span<float> out);

}  // namespace bitlab::data
