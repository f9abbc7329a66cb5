#include "bitlab/ternary/spec.h"

#include <array>
#include <charconv>
#include <cmath>

namespace bitlab::ternary {
namespace {

constexpr std::array kMethods{
#define BITLAB_METHOD(Name, name, limit, learned, asymmetric, threshold, formula, source) \
  MethodInfo{name, limit, learned, asymmetric, threshold, formula, source},
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};
constexpr std::array<std::string_view, 3> kGranularities{"tensor", "channel", "group"};
constexpr std::array<std::string_view, 3> kGradients{"ste", "clipped", "tanh"};
constexpr std::array<std::string_view, 5> kActKinds{"int8", "int4", "int8_static", "int4_static", "none"};
constexpr std::string_view kThreshold = "threshold=";

template <class Enum, size_t n>
Result<Enum> parse(std::string_view what, const std::array<std::string_view, n>& names, std::string_view text) {
  for (size_t i = 0; i < n; ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  std::string list(names[0]);
  for (size_t i = 1; i < n; ++i) list.append(", ").append(names[i]);
  return make_error(ErrorCode::kUnknownName, "[quantization] {} of {{{}}}, got '{}'", what, list, text);
}

template <class T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// A part behind the method and the granularity.
Status parse_option(std::string_view text, WeightSpec& spec) {
  if (text.starts_with(kThreshold)) {
    if (parse_number(text.substr(kThreshold.size()), spec.threshold)) return {};
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a number behind threshold=, got '{}'", text);
  }
  BITLAB_TRY(spec.gradient, parse_gradient(text));
  return {};
}

}  // namespace

std::span<const MethodInfo> method_list() { return kMethods; }
const MethodInfo& info(Method method) { return kMethods.at(static_cast<size_t>(method)); }
std::string_view name(Method method) { return info(method).name; }
std::string_view name(Granularity granularity) { return kGranularities.at(static_cast<size_t>(granularity)); }
std::string_view name(Gradient gradient) { return kGradients.at(static_cast<size_t>(gradient)); }
std::string_view name(ActKind kind) { return kActKinds.at(static_cast<size_t>(kind)); }

Result<Method> parse_method(std::string_view text) {
  std::array<std::string_view, kMethods.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kMethods[i].name;
  return parse<Method>("a method", names, text);
}
Result<Granularity> parse_granularity(std::string_view text) {
  return parse<Granularity>("a granularity", kGranularities, text);
}
Result<Gradient> parse_gradient(std::string_view text) { return parse<Gradient>("a gradient", kGradients, text); }
Result<ActKind> parse_act_kind(std::string_view text) { return parse<ActKind>("an activation kind", kActKinds, text); }

std::string to_text(const WeightSpec& spec) {
  std::string text = fmt::format("{}/{}", name(spec.method), name(spec.granularity));
  if (spec.granularity == Granularity::kGroup) text += std::to_string(spec.group);
  if (spec.threshold != 0) text += fmt::format("/{}{}", kThreshold, spec.threshold);
  if (spec.gradient != Gradient::kStraightThrough) text.append("/").append(name(spec.gradient));
  return text;
}

Result<WeightSpec> parse_weight_spec(std::string_view text) {
  WeightSpec spec;
  for (int part = 0; part == 0 || !text.empty(); ++part) {
    const size_t end = std::min(text.find('/'), text.size());
    std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (part == 0) {
      BITLAB_TRY(spec.method, parse_method(word));
    } else if (part == 1) {
      constexpr std::string_view kGroup = kGranularities[2];
      if (word.starts_with(kGroup) && word != kGroup && parse_number(word.substr(kGroup.size()), spec.group)) word = kGroup;
      BITLAB_TRY(spec.granularity, parse_granularity(word));
    } else {
      BITLAB_RETURN_IF_ERROR(parse_option(word, spec));
    }
  }
  BITLAB_RETURN_IF_ERROR(validate(spec));
  return spec;
}

Status validate(const WeightSpec& spec) {
  const MethodInfo& method = info(spec.method);
  if (spec.granularity == Granularity::kGroup && spec.group != 64 && spec.group != 128 && spec.group != 256)
    return make_error(ErrorCode::kInvalidArgument, "[quantization] groups of 64, 128 or 256, got {}", spec.group);
  if (!std::isfinite(spec.threshold) || spec.threshold < 0)
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a threshold of at least 0, got {}", spec.threshold);
  if (spec.threshold != 0 && method.default_threshold == 0)
    return make_error(ErrorCode::kUnsupported, "[quantization] no threshold for {} (twn, ttq and fixed have one), got {}",
                      method.name, spec.threshold);
  if (!is_ternary(spec.method) && spec.granularity == Granularity::kGroup)
    return make_error(ErrorCode::kUnsupported, "[quantization] tensor or channel scales for int8, got group");
  if (!is_ternary(spec.method) && spec.gradient != Gradient::kStraightThrough)
    return make_error(ErrorCode::kUnsupported, "[quantization] ste for int8, where nothing is far from its code, got {}",
                      name(spec.gradient));
  if (method.learned_scales == 0) return {};
  if (spec.granularity == Granularity::kGroup)
    return make_error(
        ErrorCode::kUnsupported,
        "[quantization] tensor or channel scales for {}, whose scales are learned (absmean, absmedian, twn and "
        "fixed have groups), got group",
        method.name);
  if (spec.gradient != Gradient::kStraightThrough)
    return make_error(ErrorCode::kUnsupported,
                      "[quantization] ste for {}, whose paper gives the gradient (absmean, absmedian, twn and fixed have "
                      "others), got {}",
                      method.name, name(spec.gradient));
  return {};
}

}  // namespace bitlab::ternary
