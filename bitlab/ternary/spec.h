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
#define BITLAB_METHOD(Name, name, formula) k##Name,
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};

// Which weights share a scale: all of the tensor, or an output channel (a row).
enum class Granularity { kTensor, kChannel };

// How activations enter a ternary product. int8: q = clamp(rint(x * 127 / max(absmax, 1e-5)), -127, 127), where absmax is taken
// over a token (the last dimension) for linear layers and over a sample for convolutions, at run time.
enum class ActKind { kInt8 };

struct WeightSpec {
  Method method = Method::kAbsmean;
  Granularity granularity = Granularity::kTensor;
  bool operator==(const WeightSpec&) const = default;
};

// Names as in configs, files and operator arguments: "absmean", "channel", "int8". Error of parse: UnknownName.
std::string_view name(Method method);
std::string_view name(Granularity granularity);
std::string_view name(ActKind kind);
Result<Method> parse_method(std::string_view text);
Result<Granularity> parse_granularity(std::string_view text);
Result<ActKind> parse_act_kind(std::string_view text);

inline constexpr int kActMax = 127;            // |q| <= 127; -128 is never used, which the kernels' int16 sums rely on
inline constexpr float kActEpsilon = 1e-5F;    // floor of absmax, as in Hugging Face's BitNet
inline constexpr float kScaleEpsilon = 1e-5F;  // floor of absmean's scale, same source
inline constexpr int64_t kMaxDepth = 1 << 24;  // K: 127 K stays below 2^31, so int32 sums are exact

}  // namespace bitlab::ternary
