// ttq cuts at a part of the maximum; its two scales are learned, and begin at twn's.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kTtqRule{.measure = MethodRule::Measure::kMax,
                                    .threshold = MethodRule::Threshold::kTimesC,
                                    .scale = MethodRule::Scale::kLearned,
                                    .beginning = {Method::kTwn, 1}};

}  // namespace bitlab::ternary
