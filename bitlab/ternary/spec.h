// What "ternary" means: the choices, as data. Weights and activations are described separately.
#pragma once

#include <cstdint>
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

struct MethodInfo {
  std::string_view name;
  int limit;                 // the largest |t|: 1, or 127 of kInt8
  int learned_scales;        // 0, 1 or 2 that are parameters
  bool asymmetric;           // two scales: of t = +1 and of t = -1
  double default_threshold;  // 0 where the formula has none
  std::string_view formula, source;
};
std::span<const MethodInfo> method_list();  // in the order of Method
const MethodInfo& info(Method method);
inline bool is_ternary(Method method) { return info(method).limit == 1; }

// Which weights share a scale: all of the tensor, an output channel (a row), or WeightSpec::group consecutive k of a row.
enum class Granularity { kTensor, kChannel, kGroup };

// What of the gradient at the quantized weight reaches the latent one; u = w / D with the method's threshold D.
enum class Gradient {
  kStraightThrough,  // all of it (arXiv:1308.3432); a method with learned scales follows its own paper
  kClipped,          // where |u| <= 2, which is |w| <= s for absmean: the slope of clamp(w, -s, s)
  kTanh,             // the slope of s/2 (tanh(2 (u - 1)) + tanh(2 (u + 1))), a smooth form of the three steps
};

struct WeightSpec {
  Method method = Method::kAbsmean;
  Granularity granularity = Granularity::kTensor;
  int64_t group = 128;   // of kGroup: 64, 128 or 256
  double threshold = 0;  // c of the formula; 0: the method's default
  Gradient gradient = Gradient::kStraightThrough;
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
std::string_view name(ActKind kind);
Result<Method> parse_method(std::string_view text);
Result<Granularity> parse_granularity(std::string_view text);
Result<Gradient> parse_gradient(std::string_view text);
Result<ActKind> parse_act_kind(std::string_view text);

// One text for a spec, as operators take it: "absmean/tensor", "twn/group64/threshold=0.8/clipped". What is at its default is left out,
// but for the granularity. Errors: UnknownName, InvalidArgument (as validate()).
std::string to_text(const WeightSpec& spec);
Result<WeightSpec> parse_weight_spec(std::string_view text);

// Whether the choices fit together; the error names what would. Errors: InvalidArgument, Unsupported.
Status validate(const WeightSpec& spec);

inline constexpr int kActMax = 127;                // |q| <= 127; -128 is never used, which the kernels' int16 sums rely on
inline constexpr float kActEpsilon = 1e-5F;        // floor of absmax, as in Hugging Face's BitNet
inline constexpr float kScaleEpsilon = 1e-5F;      // floor of absmean's scale, same source
inline constexpr int64_t kMaxDepth = 1 << 24;      // K: 127 K stays below 2^31, so int32 sums are exact
inline constexpr int64_t kMaxInt8Depth = 1 << 17;  // of int8 weights: 127^2 K does
constexpr int64_t max_depth(bool is_int8) { return is_int8 ? kMaxInt8Depth : kMaxDepth; }

}  // namespace bitlab::ternary
