#include "bitlab/kernels/elementwise/elementwise.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP elementwise
#include "bitlab/kernels/internal/kernel_list.def"

void elementwise(const ElementwiseRow& row, const ElementwiseArgs& args, int64_t count, ThreadPool& pool) {
  constexpr int64_t kBlock = 1 << 14;
  pool.run(ceil_div(count, kBlock),
           [&](int64_t block, int) { row.run(args, block * kBlock, std::min(count, (block + 1) * kBlock)); });
}

void elementwise(const ElementwiseRow& row, std::span<const ElementwiseArgs> functions, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 1 << 12;
  for (int64_t from = begin; from < end; from += kBlock)
    for (const ElementwiseArgs& args : functions) row.run(args, from, std::min(end, from + kBlock));
}

}  // namespace bitlab::kernels
