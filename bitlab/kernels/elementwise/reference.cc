#include "bitlab/kernels/elementwise/internal/body.h"

namespace bitlab::kernels {

void elementwise_reference(const ElementwiseArgs& args, int64_t begin, int64_t end) { elementwise_body(args, begin, end); }

}  // namespace bitlab::kernels
