#include "bitlab/ops/internal/method.h"

#include <array>

namespace bitlab::ops {
namespace {

using ternary::learned::kNothing, ternary::learned::kScale, ternary::learned::kTwoScales, ternary::learned::kThreshold;

// `rule` is named where something is learned alone: other methods define none.
#define BITLAB_METHOD(Name, name, limit, learned, ...)   \
  constexpr const MethodGradient* gradient_of_##Name() { \
    if constexpr (std::size(learned) == 0) {             \
      return nullptr;                                    \
    } else {                                             \
      return &k##Name##Gradient;                         \
    }                                                    \
  }
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD

constexpr std::array kGradients{
#define BITLAB_METHOD(Name, ...) gradient_of_##Name(),
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};

}  // namespace

const MethodGradient* gradient_rule(ternary::Method method) { return kGradients.at(static_cast<size_t>(method)); }

}  // namespace bitlab::ops
