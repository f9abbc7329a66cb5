#include "bitlab/data/preprocess.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "bitlab/base/internal/json.h"

namespace bitlab::data {
namespace {

constexpr std::array<std::string_view, 3> kKinds{"none", "image", "text"};

Error corrupt_text(std::string_view expectation, std::string_view found) {
  return make_error(ErrorCode::kCorrupt, "[preprocess] {}, got '{}'", expectation, found.substr(0, 80));
}

Result<Json> parse_object(std::string_view text) {
  BITLAB_TRY(Json json, parse_json(text, "preprocess"));
  if (!json.is_object()) return corrupt_text("a JSON object", text);
  return json;
}

Status normalize_images(const ImageSpec& spec, Sample& sample) {
  Array* image = sample.find("image");
  const size_t rank = image == nullptr ? 0 : image->shape.size();
  if (image == nullptr) return make_error(ErrorCode::kInvalidArgument, "[data] an array 'image', got none");
  if (rank < 3 || image->dtype != DType::kUInt8 || image->shape[rank - 3] != spec.channels ||
      image->shape[rank - 2] != spec.height || image->shape[rank - 1] != spec.width)
    return make_error(ErrorCode::kInvalidArgument, "[data] 'image' as uint8 [..., {}, {}, {}], got {} [{}]", spec.channels,
                      spec.height, spec.width, name(image->dtype), fmt::join(image->shape, ", "));
  std::vector<uint8_t> pixels = std::move(image->bytes);
  image->dtype = DType::kFloat32;
  image->bytes.resize(pixels.size() * sizeof(float));
  normalize(spec, pixels, image->values<float>());
  return {};
}

}  // namespace

std::string TextSpec::to_json() const {
  Json json{{"vocabulary", vocabulary}, {"tokens", tokens}};
  if (!labels.empty()) json["labels"] = labels;
  return json_text(json);
}

Result<TextSpec> TextSpec::from_json(std::string_view text) {
  constexpr uint64_t kMaxSize = 1 << 24;
  BITLAB_TRY(const Json json, parse_object(text));
  TextSpec spec;
  for (const auto& [key, size] : {std::pair{"vocabulary", &spec.vocabulary}, {"tokens", &spec.tokens}}) {
    if (!json.contains(key) || !json[key].is_number_unsigned() || json[key].get<uint64_t>() < 1 ||
        json[key].get<uint64_t>() > kMaxSize)
      return corrupt_text("vocabulary and tokens from 1 to 2^24", text);
    *size = json[key].get<int64_t>();
  }
  if (json.size() == 2) return spec;
  if (json.size() != 3 || !json.contains("labels") || !json["labels"].is_array() || json["labels"].empty() ||
      !std::all_of(json["labels"].begin(), json["labels"].end(), [](const Json& v) { return v.is_string(); }))
    return corrupt_text("vocabulary, tokens and names as labels", text);
  spec.labels = json["labels"].get<std::vector<std::string>>();
  return spec;
}

std::string_view Preprocess::kind() const { return kKinds.at(spec.index()); }

Status Preprocess::apply(Sample& sample) const { return image() == nullptr ? Status() : normalize_images(*image(), sample); }

std::map<std::string, int64_t> Preprocess::sizes() const {
  if (const ImageSpec* i = image(); i != nullptr)
    return {{"channels", i->channels},
            {"height", i->height},
            {"width", i->width},
            {"classes", static_cast<int64_t>(i->labels.size())}};
  const TextSpec* t = text();
  if (t == nullptr) return {};
  std::map<std::string, int64_t> sizes{{"vocabulary", t->vocabulary}, {"tokens", t->tokens}};
  if (!t->labels.empty()) sizes["classes"] = static_cast<int64_t>(t->labels.size());
  return sizes;
}

std::string Preprocess::spec_json() const { return image() ? image()->to_json() : text() ? text()->to_json() : "{}"; }

std::string Preprocess::to_json() const {
  const std::string key(kind());
  Json json{{"kind", key}};
  json[key] = parse_json(spec_json(), "preprocess").value();
  return json_text(json, 2) + "\n";
}

Result<Preprocess> Preprocess::from_json(std::string_view text) {
  BITLAB_TRY(const Json json, parse_object(text));
  if (!json.contains("kind") || !json["kind"].is_string()) return corrupt_text("a kind, and the kind's own part", text);
  const auto kind = json["kind"].get<std::string>();
  const auto known = std::find(kKinds.begin(), kKinds.end(), kind);
  if (known == kKinds.end())
    return make_error(ErrorCode::kUnknownName, "[preprocess] a kind of {{none, image, text}}, got '{}'", kind);
  if (!json.contains(kind) || json.size() != 2) return corrupt_text("a kind, and the kind's own part", text);
  const std::string part = json_text(json[kind]);
  Preprocess result;
  if (kind == "image") {
    BITLAB_TRY(result.spec, ImageSpec::from_json(part));
  } else if (kind == "text") {
    BITLAB_TRY(result.spec, TextSpec::from_json(part));
  }
  return result;
}

}  // namespace bitlab::data
