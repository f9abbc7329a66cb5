#include "bitlab/data/image_spec.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "bitlab/base/internal/json.h"

namespace bitlab::data {
namespace {

Error corrupt(std::string_view expectation, const Json& found) {
  return make_error(ErrorCode::kCorrupt, "[image] {}, got {}", expectation, json_excerpt(found));
}

Result<std::vector<float>> read_floats(const Json& json, int64_t count) {
  if (!json.is_array() || static_cast<int64_t>(json.size()) != count ||
      !std::all_of(json.begin(), json.end(), [](const Json& v) { return v.is_number() && std::isfinite(v.get<float>()); }))
    return corrupt("a finite mean and std for each channel", json);
  return json.get<std::vector<float>>();
}

}  // namespace

std::string ImageSpec::to_json() const {
  return json_text(
      {{"channels", channels}, {"height", height}, {"width", width}, {"mean", mean}, {"std", std}, {"labels", labels}});
}

Result<ImageSpec> ImageSpec::from_json(std::string_view text) {
  constexpr int64_t kMaxSize = 16384;
  constexpr std::array kKeys{"channels", "height", "width", "mean", "std", "labels"};
  BITLAB_TRY(const Json json, parse_json(text, "image"));
  if (!json.is_object() || json.size() != kKeys.size() ||
      !std::all_of(kKeys.begin(), kKeys.end(), [&](const char* key) { return json.contains(key); }))
    return corrupt("channels, height, width, mean, std and labels", json);
  ImageSpec spec;
  for (const auto& [key, size] : {std::pair{"channels", &spec.channels}, {"height", &spec.height}, {"width", &spec.width}}) {
    if (!json[key].is_number_unsigned() || json[key].get<uint64_t>() < 1 || json[key].get<uint64_t>() > kMaxSize)
      return corrupt("sizes from 1 to 16384", json[key]);
    *size = json[key].get<int64_t>();
  }
  BITLAB_TRY(spec.mean, read_floats(json["mean"], spec.channels));
  BITLAB_TRY(spec.std, read_floats(json["std"], spec.channels));
  if (std::any_of(spec.std.begin(), spec.std.end(), [](float s) { return s <= 0; }))
    return corrupt("a positive std", json["std"]);
  const Json& labels = json["labels"];
  if (!labels.is_array() || !std::all_of(labels.begin(), labels.end(), [](const Json& v) { return v.is_string(); }))
    return corrupt("names as labels", json["labels"]);
  spec.labels = labels.get<std::vector<std::string>>();
  return spec;
}

void normalize(const ImageSpec& spec, std::span<const uint8_t> pixels, std::span<float> out) {
  std::vector<std::array<float, 256>> tables(static_cast<size_t>(spec.channels));
  for (size_t c = 0; c < tables.size(); ++c)
    for (size_t u = 0; u < 256; ++u) {
      const float value = static_cast<float>(u) / 255.0F;
      tables[c][u] = (value - spec.mean[c]) / spec.std[c];
    }
  const auto plane = static_cast<size_t>(spec.height * spec.width);
  for (size_t begin = 0; begin < pixels.size(); begin += plane) {
    const auto& table = tables[begin / plane % tables.size()];
    for (size_t i = begin; i < begin + plane; ++i) out[i] = table[pixels[i]];
  }
}

}  // namespace bitlab::data
