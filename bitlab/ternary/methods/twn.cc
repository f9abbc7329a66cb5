// twn cuts at a part of the mean, and takes the best scale for what is left.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kTwnRule{
    .measure = MethodRule::Measure::kMean, .threshold = MethodRule::Threshold::kTimesC, .scale = MethodRule::Scale::kBest};

}  // namespace bitlab::ternary
