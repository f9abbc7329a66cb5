// absmedian rounds in units of the median, which outliers do not move.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kAbsmedianRule{.measure = MethodRule::Measure::kMedian,
                                          .threshold = MethodRule::Threshold::kHalfScale,
                                          .scale = MethodRule::Scale::kMeasure};

}  // namespace bitlab::ternary
