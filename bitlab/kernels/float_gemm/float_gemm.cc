#include "bitlab/kernels/float_gemm/float_gemm.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP float_gemm
#include "bitlab/kernels/internal/kernel_list.def"

void float_gemm(const FloatGemmRow& row, const FloatGemmArgs& args, int64_t tokens, ThreadPool& pool) {
  constexpr int64_t kTokenBlock = 48, kRowBlock = 128;  // whole tiles of every kernel
  const int64_t row_blocks = ceil_div(args.rows, kRowBlock);
  pool.run(ceil_div(tokens, kTokenBlock) * row_blocks, [&](int64_t task, int) {
    const int64_t token = task / row_blocks * kTokenBlock, first = task % row_blocks * kRowBlock;
    row.run(args, token, std::min(token + kTokenBlock, tokens), first, std::min(first + kRowBlock, args.rows));
  });
}

}  // namespace bitlab::kernels
