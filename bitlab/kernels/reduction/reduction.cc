#include "bitlab/kernels/reduction/reduction.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP reduction
#include "bitlab/kernels/internal/kernel_list.def"

void reduction(const ReductionRow& row, const ReductionArgs& args, int64_t rows, ThreadPool& pool) {
  constexpr int64_t kBlockElements = 1 << 13;
  const int64_t block = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, args.columns));
  pool.run(ceil_div(rows, block), [&](int64_t i, int) { row.run(args, i * block, std::min(rows, (i + 1) * block)); });
}

}  // namespace bitlab::kernels
