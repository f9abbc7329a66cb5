#include "bitlab/ternary/spec.h"

#include <array>
#include <charconv>
#include <cmath>
#include <vector>

namespace bitlab::ternary {
namespace {

using learned::kNothing, learned::kScale, learned::kTwoScales, learned::kThreshold;

constexpr std::array kMethods{
#define BITLAB_METHOD(Name, name, limit, learned, asymmetric, rounds, threshold, formula, source) \
  MethodInfo{name, limit, learned, asymmetric, rounds, threshold, formula, source},
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};
constexpr std::array kPatterns{
#define BITLAB_SPARSITY(Name, name, kept, of) Pattern{kept, of},
#include "bitlab/ternary/sparsity.def"
#undef BITLAB_SPARSITY
};
constexpr std::array<std::string_view, kPatterns.size()> kSparsities{
#define BITLAB_SPARSITY(Name, name, kept, of) name,
#include "bitlab/ternary/sparsity.def"
#undef BITLAB_SPARSITY
};
constexpr std::array<std::string_view, kMethods.size()> kMethodNames{
#define BITLAB_METHOD(Name, name, ...) name,
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};
constexpr std::array<std::string_view, 3> kGranularities{"tensor", "channel", "group"};
constexpr std::array<std::string_view, 3> kGradients{"ste", "clipped", "tanh"};
constexpr std::array<std::string_view, 2> kRoundings{"nearest", "stochastic"};
constexpr std::array<std::string_view, 5> kActKinds{"int8", "int4", "int8_static", "int4_static", "none"};
constexpr std::array<std::string_view, 3> kParameters{"scale", "scale_neg", "threshold"};
constexpr std::string_view kThresholdIs = "threshold=", kDrawIs = "stochastic=";

// "a, b, c", or "a, b and c" with " and " as what stands before the last one.
std::string joined(std::span<const std::string_view> words, std::string_view last = ", ") {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i != 0) text += i + 1 == words.size() ? last : ", ";
    text += words[i];
  }
  return text;
}

std::string groups_text() {
  std::vector<std::string> numbers;
  for (const int64_t group : kGroups) numbers.push_back(std::to_string(group));
  const std::vector<std::string_view> words(numbers.begin(), numbers.end());
  return joined(words, " or ");
}

template <class Enum>
Result<Enum> parse(std::string_view what, std::span<const std::string_view> names, std::string_view text) {
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  return make_error(ErrorCode::kUnknownName, "[quantization] {} of {{{}}}, got '{}'", what, joined(names), text);
}

template <class T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

template <class Enum>
bool take(Result<Enum> parsed, Enum& value) {
  if (parsed.ok()) value = *parsed;
  return parsed.ok();
}

// A part behind the method and the granularity.
Status parse_option(std::string_view text, WeightSpec& spec) {
  if (text.starts_with(kThresholdIs)) {
    if (parse_number(text.substr(kThresholdIs.size()), spec.threshold)) return {};
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a number behind threshold=, got '{}'", text);
  }
  if (text.starts_with(kDrawIs)) {
    spec.rounding = Rounding::kStochastic;
    if (parse_number(text.substr(kDrawIs.size()), spec.draw) && spec.draw > 0) return {};
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a number above 0 behind stochastic=, got '{}'", text);
  }
  if (take(parse_gradient(text), spec.gradient) || take(parse_sparsity(text), spec.sparsity) ||
      take(parse_rounding(text), spec.rounding))
    return {};
  return make_error(ErrorCode::kUnknownName, "[quantization] an option of {{threshold=, stochastic=, {}, {}, {}}}, got '{}'",
                    joined(kGradients), joined(kSparsities), joined(kRoundings), text);
}

bool has_groups(const MethodInfo& m) { return m.learned.empty() && !m.asymmetric; }
bool has_gradients(const MethodInfo& m) { return m.learned.empty(); }
bool has_threshold(const MethodInfo& m) { return m.default_threshold != 0; }
bool rounds(const MethodInfo& m) { return m.rounds; }

template <class... Args>
Status refuse(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kUnsupported, "[quantization] {}", fmt::format(format, std::forward<Args>(args)...));
}

Status validate_numbers(const WeightSpec& spec) {
  if (spec.granularity == Granularity::kGroup && !is_group(spec.group))
    return make_error(ErrorCode::kInvalidArgument, "[quantization] groups of {}, got {}", groups_text(), spec.group);
  if (!std::isfinite(spec.threshold) || spec.threshold < 0)
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a threshold of at least 0, got {}", spec.threshold);
  if (spec.draw < 0 || (spec.draw != 0 && spec.rounding != Rounding::kStochastic))
    return make_error(ErrorCode::kInvalidArgument, "[quantization] a draw above 0 of stochastic rounding, got {} for {}",
                      spec.draw, name(spec.rounding));
  return {};
}

// What layers in 8 bits do without.
Status validate_int8(const WeightSpec& spec) {
  if (spec.granularity == Granularity::kGroup) return refuse("tensor or channel scales for int8, got group");
  if (spec.gradient != Gradient::kStraightThrough)
    return refuse("ste for int8, where nothing is far from its code, got {}", name(spec.gradient));
  if (spec.sparsity != Sparsity::kDense) return refuse("dense weights for int8, got {}", name(spec.sparsity));
  return {};
}

}  // namespace

std::span<const MethodInfo> method_list() { return kMethods; }
const MethodInfo& info(Method method) { return kMethods.at(static_cast<size_t>(method)); }
Pattern pattern(Sparsity sparsity) { return kPatterns.at(static_cast<size_t>(sparsity)); }
std::string_view name(Parameter parameter) { return kParameters.at(static_cast<size_t>(parameter)); }
std::string_view name(Method method) { return info(method).name; }
std::string_view name(Granularity granularity) { return kGranularities.at(static_cast<size_t>(granularity)); }
std::string_view name(Gradient gradient) { return kGradients.at(static_cast<size_t>(gradient)); }
std::string_view name(Sparsity sparsity) { return kSparsities.at(static_cast<size_t>(sparsity)); }
std::string_view name(Rounding rounding) { return kRoundings.at(static_cast<size_t>(rounding)); }
std::string_view name(ActKind kind) { return kActKinds.at(static_cast<size_t>(kind)); }

std::string methods_that(bool (*has)(const MethodInfo& method)) {
  std::vector<std::string_view> names;
  for (const MethodInfo& method : kMethods)
    if (method.limit == 1 && has(method)) names.push_back(method.name);
  return joined(names, " and ");
}

std::span<const std::string_view> names_of(Method) { return kMethodNames; }
std::span<const std::string_view> names_of(Granularity) { return kGranularities; }
std::span<const std::string_view> names_of(Gradient) { return kGradients; }
std::span<const std::string_view> names_of(Sparsity) { return kSparsities; }
std::span<const std::string_view> names_of(Rounding) { return kRoundings; }
std::span<const std::string_view> names_of(ActKind) { return kActKinds; }

Result<Method> parse_method(std::string_view text) { return parse<Method>("a method", kMethodNames, text); }
Result<Granularity> parse_granularity(std::string_view text) {
  return parse<Granularity>("a granularity", kGranularities, text);
}
Result<Gradient> parse_gradient(std::string_view text) { return parse<Gradient>("a gradient", kGradients, text); }
Result<Sparsity> parse_sparsity(std::string_view text) { return parse<Sparsity>("a sparsity", kSparsities, text); }
Result<Rounding> parse_rounding(std::string_view text) { return parse<Rounding>("a rounding", kRoundings, text); }
Result<ActKind> parse_act_kind(std::string_view text) { return parse<ActKind>("an activation kind", kActKinds, text); }

const char* method_help() {
  static const std::string text =
      "method of the weights: " + joined(kMethodNames) + "; int8 keeps 8 bits; none for float32 layers";
  return text.c_str();
}
const char* granularity_help() {
  static const std::string text = "what shares a weight scale: " + joined(kGranularities, " or ");
  return text.c_str();
}
const char* group_help() {
  static const std::string text = "weights of a row that share a scale by group: " + groups_text();
  return text.c_str();
}
const char* threshold_help() {
  static const std::string text = [] {
    std::string list = "c in the formula of";
    for (const MethodInfo& method : kMethods)
      if (has_threshold(method)) list += fmt::format(" {} ({}),", method.name, method.default_threshold);
    list.back() = ';';
    return list + " 0: the number that stands there";
  }();
  return text.c_str();
}
const char* gradient_help() {
  static const std::string text = "what of the gradient reaches the latent weight: " + joined(kGradients, " or ");
  return text.c_str();
}
const char* sparsity_help() {
  static const std::string text =
      "N:M, at most N of M consecutive weights of a row are not zero: " + joined(kSparsities, " or ");
  return text.c_str();
}
const char* rounding_help() {
  static const std::string text = "rounding in training of methods that round: " + joined(kRoundings, " or ");
  return text.c_str();
}
const char* activation_help() {
  static const std::string text = "activations of ternary layers: " + joined(kActKinds, " or ");
  return text.c_str();
}

std::optional<std::string> act_scale_problem(ActKind kind, bool given) {
  if (given == is_static(kind)) return std::nullopt;
  return fmt::format("act_scale for static activations alone, got {} for {}", given ? "one" : "none", name(kind));
}

std::string to_text(const WeightSpec& spec) {
  std::string text = fmt::format("{}/{}", name(spec.method), name(spec.granularity));
  if (spec.granularity == Granularity::kGroup) text += std::to_string(spec.group);
  if (spec.threshold != 0) text += fmt::format("/{}{}", kThresholdIs, spec.threshold);
  if (spec.gradient != Gradient::kStraightThrough) text.append("/").append(name(spec.gradient));
  if (spec.sparsity != Sparsity::kDense) text.append("/").append(name(spec.sparsity));
  if (spec.rounding != Rounding::kNearest) text.append("/").append(name(spec.rounding));
  if (spec.draw != 0) text += fmt::format("={}", spec.draw);
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
  BITLAB_RETURN_IF_ERROR(validate_numbers(spec));
  if (spec.threshold != 0 && !has_threshold(method))
    return refuse("no threshold for {} ({} have one), got {}", method.name, methods_that(has_threshold), spec.threshold);
  if (spec.rounding == Rounding::kStochastic && !method.rounds)
    return refuse("nearest rounding for {}, which cuts ({} round), got stochastic", method.name, methods_that(rounds));
  if (!is_ternary(spec.method)) return validate_int8(spec);
  if (spec.granularity == Granularity::kGroup && !has_groups(method))
    return refuse("tensor or channel scales for {}, {} ({} have groups), got group", method.name,
                  method.learned.empty() ? "which has two of them" : "which learns", methods_that(has_groups));
  if (spec.gradient != Gradient::kStraightThrough && !has_gradients(method))
    return refuse("ste for {}, whose paper gives the gradient ({} have others), got {}", method.name,
                  methods_that(has_gradients), name(spec.gradient));
  return {};
}

}  // namespace bitlab::ternary
