#include "bitlab/kernels/ternary_gemm_f32/ternary_gemm_f32.h"

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP ternary_gemm_f32
#include "bitlab/kernels/internal/kernel_list.def"

void ternary_gemm_f32(const TernaryGemmF32Row& row, const TernaryGemmF32Args& args, int64_t tokens, ThreadPool& pool) {
  constexpr int64_t kTokenBlock = 16, kRowBlock = 64;
  const int64_t row_blocks = ceil_div(args.layer.rows, kRowBlock);
  pool.run(ceil_div(tokens, kTokenBlock) * row_blocks, [&](int64_t task, int) {
    const int64_t token = task / row_blocks * kTokenBlock, first = task % row_blocks * kRowBlock;
    row.run(args, token, std::min(token + kTokenBlock, tokens), first, std::min(first + kRowBlock, args.layer.rows));
  });
}

}  // namespace bitlab::kernels
