// 64-bit Arm: 8 channels at a time.
#include "bitlab/kernels/ternary_depthwise/internal/body.h"

namespace bitlab::kernels {

void ternary_depthwise_arm_neon(const TernaryDepthwiseArgs& args, int64_t lines) { depthwise<8>(args, lines); }

}  // namespace bitlab::kernels
