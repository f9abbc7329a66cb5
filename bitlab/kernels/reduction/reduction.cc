#include "bitlab/kernels/reduction/reduction.h"

#include <algorithm>
#include <array>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr std::array kRows{
#define BITLAB_KERNEL(name, target, needs, cost) \
  KernelRow<ReductionKernel>{#name, needs, cost, BITLAB_BUILT_FOR_##target(reduction_##name)},
#include "bitlab/kernels/reduction/kernels.def"
#undef BITLAB_KERNEL
};

}  // namespace

KernelList<ReductionKernel> reduction_kernels() { return {"reduction", kRows}; }

void reduction(const ReductionRow& row, const ReductionArgs& args, int64_t rows, ThreadPool& pool) {
  constexpr int64_t kBlockElements = 1 << 13;
  const int64_t block = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, args.columns));
  pool.run(ceil_div(rows, block), [&](int64_t i, int) { row.run(args, i * block, std::min(rows, (i + 1) * block)); });
}

}  // namespace bitlab::kernels
