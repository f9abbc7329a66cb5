#include "bitlab/kernels/elementwise/elementwise.h"

#include <algorithm>
#include <array>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr std::array kRows{
#define BITLAB_KERNEL(name, target, needs, cost) \
  KernelRow<ElementwiseKernel>{#name, needs, cost, BITLAB_BUILT_FOR_##target(elementwise_##name)},
#include "bitlab/kernels/elementwise/kernels.def"
#undef BITLAB_KERNEL
};

}  // namespace

KernelList<ElementwiseKernel> elementwise_kernels() { return {"elementwise", kRows}; }

void elementwise(const ElementwiseRow& row, const ElementwiseArgs& args, int64_t count, ThreadPool& pool) {
  constexpr int64_t kBlock = 1 << 14;
  pool.run(ceil_div(count, kBlock),
           [&](int64_t block, int) { row.run(args, block * kBlock, std::min(count, (block + 1) * kBlock)); });
}

}  // namespace bitlab::kernels
