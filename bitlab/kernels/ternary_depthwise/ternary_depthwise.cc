#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"

#include <array>

namespace bitlab::kernels {
namespace {

constexpr std::array kRows{
#define BITLAB_KERNEL(name, target, needs, cost) \
  KernelRow<TernaryDepthwiseKernel>{#name, needs, cost, BITLAB_BUILT_FOR_##target(ternary_depthwise_##name)},
#include "bitlab/kernels/ternary_depthwise/kernels.def"
#undef BITLAB_KERNEL
};

}  // namespace

KernelList<TernaryDepthwiseKernel> ternary_depthwise_kernels() { return {"ternary_depthwise", kRows}; }

}  // namespace bitlab::kernels
