// Four registers at a time: the steps of a polynomial wait for each other, and with two the multipliers wait, too.
#define BITLAB_LANES 32
#include "bitlab/kernels/elementwise/internal/body.h"

namespace bitlab::kernels {

void elementwise_x86_avx2(const ElementwiseArgs& args, int64_t begin, int64_t end) { elementwise_body(args, begin, end); }

}  // namespace bitlab::kernels
