// absmean rounds in units of the mean of |w|.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kAbsmeanRule{.measure = MethodRule::Measure::kMean,
                                        .threshold = MethodRule::Threshold::kHalfScale,
                                        .scale = MethodRule::Scale::kMeasure};

}  // namespace bitlab::ternary
