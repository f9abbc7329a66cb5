// Portable: one channel at a time.
#include "bitlab/kernels/ternary_depthwise/internal/body.h"

namespace bitlab::kernels {

void ternary_depthwise_reference(const TernaryDepthwiseArgs& args, int64_t token_begin, int64_t token_end) {
  depthwise<1>(args, token_begin, token_end);
}

}  // namespace bitlab::kernels
