// int8 rounds in 127ths of the maximum.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kInt8Rule{.measure = MethodRule::Measure::kMax,
                                     .threshold = MethodRule::Threshold::kHalfScale,
                                     .scale = MethodRule::Scale::kMeasure};

}  // namespace bitlab::ternary
