// AVX-512: 16 channels at a time.
#include "bitlab/kernels/ternary_depthwise/internal/body.h"

namespace bitlab::kernels {

void ternary_depthwise_x86_avx512(const TernaryDepthwiseArgs& args, int64_t lines) { depthwise<16>(args, lines); }

}  // namespace bitlab::kernels
