// AVX2: 8 channels at a time.
#include "bitlab/kernels/ternary_depthwise/internal/body.h"

namespace bitlab::kernels {

void ternary_depthwise_x86_avx2(const TernaryDepthwiseArgs& args, int64_t lines) { depthwise<8>(args, lines); }

}  // namespace bitlab::kernels
