// twn_asymmetric cuts where twn does; what is left has the best scale of each sign.
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ternary {

constinit const MethodRule kTwnAsymmetricRule{.measure = MethodRule::Measure::kMean,
                                              .threshold = MethodRule::Threshold::kTimesC,
                                              .scale = MethodRule::Scale::kBestOfEachSign};

}  // namespace bitlab::ternary
