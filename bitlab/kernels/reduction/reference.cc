#include "bitlab/kernels/reduction/internal/body.h"

namespace bitlab::kernels {

void reduction_reference(const ReductionArgs& args, int64_t begin, int64_t end) { reduction_body(args, begin, end); }

}  // namespace bitlab::kernels
