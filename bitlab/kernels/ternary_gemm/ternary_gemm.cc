#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/float_environment.h"

namespace bitlab::kernels {

void ternary_gemm(const TernaryGemmRow& row, const TernaryGemmArgs& args, int64_t tokens, ThreadPool& pool) {
  // Below this many products a hand-over to other threads costs more than it saves.
  constexpr int64_t kMinProducts = 1 << 18;
  constexpr int64_t kTokenBlock = 64;
  const int64_t blocks = ceil_div(args.rows, kVnBlock);
  if (pool.threads() == 1 || tokens * args.rows * args.depth < kMinProducts) {
    ScopedFloatEnvironment environment;
    row.run(args, 0, tokens, 0, args.rows);
    return;
  }
  const int64_t token_blocks = ceil_div(tokens, kTokenBlock);
  pool.run(token_blocks * blocks, [&](int64_t i, int) {
    const int64_t token = i / blocks * kTokenBlock, first = i % blocks * kVnBlock;
    row.run(args, token, std::min(token + kTokenBlock, tokens), first, std::min(first + kVnBlock, args.rows));
  });
}

}  // namespace bitlab::kernels
