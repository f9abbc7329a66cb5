// What "ternary" means: the choices, as data. Weights and activations are described separately.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "bitlab/base/result.h"

namespace bitlab::ternary {

// How latent weights are encoded. Training only: below the torch line there are codes and scales.
enum class Method {
#define BITLAB_METHOD(Name, ...) k##Name,
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};

// What a method may learn together with the weights: numbers that are shared as scales are.
enum class Parameter { kScale, kScaleNeg, kThreshold };
std::string_view name(Parameter parameter);  // "scale", "scale_neg", "threshold"

namespace learned {
inline constexpr std::array<Parameter, 0> kNothing{};
inline constexpr std::array kScale{Parameter::kScale};
inline constexpr std::array kTwoScales{Parameter::kScale, Parameter::kScaleNeg};
inline constexpr std::array kThreshold{Parameter::kThreshold};
}  // namespace learned

struct MethodInfo {
  std::string_view name;
  int limit;                           // the largest |t|: 1, or 127 of kInt8
  std::span<const Parameter> learned;  // in the order in which operators take them
  bool asymmetric;                     // two scales: of t = +1 and of t = -1
  bool rounds;                         // codes are w / s, rounded
  double default_threshold;            // 0 where the formula has none
  std::string_view formula, source;
};
std::span<const MethodInfo> method_list();  // in the order of Method
const MethodInfo& info(Method method);
inline bool is_ternary(Method method) { return info(method).limit == 1; }
inline bool learns(Method method) { return !info(method).learned.empty(); }
// The names of ternary methods with a property: "absmean, twn and fixed".
std::string methods_that(bool (*has)(const MethodInfo& method));

// Which weights share a scale: all of the tensor, an output channel (a row), or WeightSpec::group consecutive k of a row.
enum class Granularity { kTensor, kChannel, kGroup };

// What of the gradient at the quantized weight reaches the latent one; u = w / D with the method's threshold D.
enum class Gradient {
  kStraightThrough,  // all of it (arXiv:1308.3432); a method that learns follows its own paper
  kClipped,          // where |u| <= 2, which is |w| <= s for absmean: the slope of clamp(w, -s, s)
  kTanh,             // the slope of s/2 (tanh(2 (u - 1)) + tanh(2 (u + 1))), a smooth form of the three steps
};

// Which codes may differ from zero: sparsity.def. In each M consecutive k of a row those N of the largest |w|, of equal ones those of the lower
// k, in the canonical order of k (codes.h); where M does not divide the depth, the last k of a row are a shorter block with up to N, too. Codes
// elsewhere are 0. D does not depend on it; the best scales are those of the codes that are left.
enum class Sparsity {
#define BITLAB_SPARSITY(Name, ...) k##Name,
#include "bitlab/ternary/sparsity.def"
#undef BITLAB_SPARSITY
};
struct Pattern {
  int kept, of;  // N, M; 0 of kDense
};
Pattern pattern(Sparsity sparsity);

// How w / s becomes an integer, of methods that round. Stochastic: up or down at random, so that its mean is w / s, clamped; in training
// alone, from a draw (WeightSpec). Lin et al. 2015, arXiv:1510.03009; Gupta et al. 2015, arXiv:1502.02551.
enum class Rounding { kNearest, kStochastic };

struct WeightSpec {
  Method method = Method::kAbsmean;
  Granularity granularity = Granularity::kTensor;
  int64_t group = 128;   // of kGroup: one of kGroups
  double threshold = 0;  // c of the formula; 0: the method's default
  Gradient gradient = Gradient::kStraightThrough;
  Sparsity sparsity = Sparsity::kDense;
  Rounding rounding = Rounding::kNearest;
  int64_t draw =
      0;  // of kStochastic: the number of the draw (draw.h); 0: none, codes are the nearest ones, as in evaluation
  bool operator==(const WeightSpec&) const = default;
};

// How activations enter a ternary product: q = clamp(rint(x * inv), -limit, limit), limit 127 (int8) or 7 (int4). Dynamic: inv = limit /
// max(absmax, 1e-5) over a token (the last dimension) for linear layers, over a sample for convolutions. Static: inv = 1 / (a learned or
// calibrated step). kNone: x as it is ("weight-only").
enum class ActKind { kInt8, kInt4, kInt8Static, kInt4Static, kNone };
constexpr bool is_static(ActKind kind) { return kind == ActKind::kInt8Static || kind == ActKind::kInt4Static; }
constexpr int act_limit(ActKind kind) { return kind == ActKind::kInt4 || kind == ActKind::kInt4Static ? 7 : 127; }

// c of the method's formula.
inline double coefficient(const WeightSpec& spec) {
  return spec.threshold != 0 ? spec.threshold : info(spec.method).default_threshold;
}

// Names as in configs, files and operator arguments: "absmean", "channel", "ste", "int8". Error of parse: UnknownName.
std::string_view name(Method method);
std::string_view name(Granularity granularity);
std::string_view name(Gradient gradient);
std::string_view name(Sparsity sparsity);
std::string_view name(Rounding rounding);
std::string_view name(ActKind kind);
Result<Method> parse_method(std::string_view text);
Result<Granularity> parse_granularity(std::string_view text);
Result<Gradient> parse_gradient(std::string_view text);
Result<Sparsity> parse_sparsity(std::string_view text);
Result<Rounding> parse_rounding(std::string_view text);
Result<ActKind> parse_act_kind(std::string_view text);

// All names of an enumeration, in its order; the value does not matter.
std::span<const std::string_view> names_of(Method);
std::span<const std::string_view> names_of(Granularity);
std::span<const std::string_view> names_of(Gradient);
std::span<const std::string_view> names_of(Sparsity);
std::span<const std::string_view> names_of(Rounding);
std::span<const std::string_view> names_of(ActKind);

// What a configuration's help says of its choices, from the lists: "absmean, absmedian, ...".
const char* method_help();
const char* granularity_help();
const char* group_help();
const char* threshold_help();
const char* gradient_help();
const char* sparsity_help();
const char* rounding_help();
const char* activation_help();

// One text for a spec, as operators take it: "absmean/tensor", "twn/group64/threshold=0.8/clipped/2:4", "absmean/channel/stochastic", and with
// a draw "absmean/channel/stochastic=17". What is at its default is left out, but for the granularity. Errors: UnknownName, InvalidArgument
// (as validate()).
std::string to_text(const WeightSpec& spec);
Result<WeightSpec> parse_weight_spec(std::string_view text);

// Whether the choices fit together; the error names what would. Errors: InvalidArgument, Unsupported.
Status validate(const WeightSpec& spec);

// What of static activations is wrong, as an error's text behind the operator's name; none where nothing is.
std::optional<std::string> act_scale_problem(ActKind kind, bool given);

inline constexpr std::array<int64_t, 3> kGroups{64, 128, 256};  // k of a row that may share a scale
constexpr bool is_group(int64_t group) { return std::find(kGroups.begin(), kGroups.end(), group) != kGroups.end(); }

inline constexpr float kLeastStep = 1e-30F;        // of static activations, which are divided by their step
inline constexpr int kActMax = 127;                // |q| <= 127; -128 is never used, which the kernels' int16 sums rely on
inline constexpr float kActEpsilon = 1e-5F;        // floor of absmax, as in Hugging Face's BitNet
inline constexpr float kScaleEpsilon = 1e-5F;      // floor of absmean's scale, same source
inline constexpr int64_t kMaxDepth = 1 << 24;      // K: 127 K stays below 2^31, so int32 sums are exact
inline constexpr int64_t kMaxInt8Depth = 1 << 17;  // of int8 weights: 127^2 K does
constexpr int64_t max_depth(bool is_int8) { return is_int8 ? kMaxInt8Depth : kMaxDepth; }

}  // namespace bitlab::ternary
