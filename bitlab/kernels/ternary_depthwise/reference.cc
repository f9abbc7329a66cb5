// Portable: one channel at a time.
#include "bitlab/kernels/ternary_depthwise/internal/body.h"

namespace bitlab::kernels {

void ternary_depthwise_reference(const TernaryDepthwiseArgs& args, int64_t lines) { depthwise<1>(args, lines); }

}  // namespace bitlab::kernels
