// lsq learns the unit that it rounds in, which begins at twice the mean (section 2.1 of the paper, for a limit of 1).
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kLsqRule{.measure = MethodRule::Measure::kLearnedScale,
                                    .threshold = MethodRule::Threshold::kHalfScale,
                                    .scale = MethodRule::Scale::kMeasure,
                                    .beginning = {Method::kAbsmean, 2}};

}  // namespace bitlab::ternary
