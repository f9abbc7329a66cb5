#include "bitlab/ternary/internal/method.h"

#include <array>

namespace bitlab::ternary {
namespace {

constexpr std::array kRules{
#define BITLAB_METHOD(Name, ...) &k##Name##Rule,
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};

}  // namespace

const MethodRule& rule(Method method) { return *kRules.at(static_cast<size_t>(method)); }

Result<WeightSpec> beginning(const WeightSpec& spec) {
  if (info(spec.method).learned.empty())
    return make_error(ErrorCode::kUnsupported, "[quantization] a method that learns ({}), got {}",
                      methods_that([](const MethodInfo& m) { return !m.learned.empty(); }), name(spec.method));
  WeightSpec from = spec;
  from.method = rule(spec.method).beginning.method;
  from.threshold = rule(spec.method).threshold == MethodRule::Threshold::kTimesC ? 0 : coefficient(spec);
  from.rounding = Rounding::kNearest;
  from.draw = 0;
  return from;
}

}  // namespace bitlab::ternary
