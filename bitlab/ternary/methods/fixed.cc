// fixed cuts at a number that does not depend on the weights, and takes the best scale for what is left.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kFixedRule{
    .measure = MethodRule::Measure::kOne, .threshold = MethodRule::Threshold::kTimesC, .scale = MethodRule::Scale::kBest};

}  // namespace bitlab::ternary
