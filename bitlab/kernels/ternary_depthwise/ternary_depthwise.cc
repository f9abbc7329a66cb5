#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP ternary_depthwise
#include "bitlab/kernels/internal/kernel_list.def"

}  // namespace bitlab::kernels
