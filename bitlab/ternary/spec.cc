#include "bitlab/ternary/spec.h"

#include <array>

namespace bitlab::ternary {
namespace {

constexpr std::array<std::string_view, 2> kMethods{
#define BITLAB_METHOD(Name, name, formula) name,
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};
constexpr std::array<std::string_view, 2> kGranularities{"tensor", "channel"};
constexpr std::array<std::string_view, 1> kActKinds{"int8"};

template <class Enum, size_t n>
Result<Enum> parse(std::string_view what, const std::array<std::string_view, n>& names, std::string_view text) {
  for (size_t i = 0; i < n; ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  std::string list(names[0]);
  for (size_t i = 1; i < n; ++i) list.append(", ").append(names[i]);
  return make_error(ErrorCode::kUnknownName, "[quantization] {} of {{{}}}, got '{}'", what, list, text);
}

}  // namespace

std::string_view name(Method method) { return kMethods.at(static_cast<size_t>(method)); }
std::string_view name(Granularity granularity) { return kGranularities.at(static_cast<size_t>(granularity)); }
std::string_view name(ActKind kind) { return kActKinds.at(static_cast<size_t>(kind)); }
Result<Method> parse_method(std::string_view text) { return parse<Method>("a method", kMethods, text); }
Result<Granularity> parse_granularity(std::string_view text) {
  return parse<Granularity>("a granularity", kGranularities, text);
}
Result<ActKind> parse_act_kind(std::string_view text) { return parse<ActKind>("an activation kind", kActKinds, text); }

}  // namespace bitlab::ternary
