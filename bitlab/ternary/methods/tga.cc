// tga learns where it cuts, and takes the best scale for what is left: the mean that the paper approximates by a truncated Gaussian's.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kTgaRule{.measure = MethodRule::Measure::kLearnedThreshold,
                                    .threshold = MethodRule::Threshold::kMeasure,
                                    .scale = MethodRule::Scale::kBest,
                                    .beginning = {Method::kTwn, 1}};

}  // namespace bitlab::ternary
