#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/float_environment.h"

namespace bitlab::kernels {
namespace {

// How a product is cut into calls: tokens by 64; rows as long as there are enough calls for all threads, since a kernel may prepare a block
// of tokens once for all rows of a call.
struct Cut {
  int64_t token_blocks, rows;  // rows of a call

  Cut(int64_t tokens, int64_t all_rows, int threads) : token_blocks(ceil_div(tokens, kSumTokens)) {
    constexpr int64_t kMostRows = 2048;
    const int64_t parts = token_blocks >= threads ? 1 : ceil_div(threads, token_blocks);
    rows = std::min(round_up(ceil_div(all_rows, parts), kVnBlock), kMostRows);
  }
};

}  // namespace

int64_t ternary_gemm_scratch_bytes(const TernaryGemmRow& row, int64_t depth, int64_t group) {
  const int64_t own = row.scratch.bytes + row.scratch.bytes_a_k * round_up(depth, kVnStep);
  return round_up(sums_bytes(depth, group) + own, kAlignment);
}

void ternary_gemm(const TernaryGemmRow& row, const TernaryGemmArgs& args, int64_t tokens, uint8_t* scratch, ThreadPool& pool) {
  // Below this many products a hand-over to other threads costs more than it saves.
  constexpr int64_t kMinProducts = 1 << 18;
  if (pool.threads() == 1 || tokens * args.rows * args.depth < kMinProducts) {
    ScopedFloatEnvironment environment;
    row.run(args, 0, tokens, 0, args.rows, scratch);
    return;
  }
  const Cut cut(tokens, args.rows, pool.threads());
  const int64_t row_parts = ceil_div(args.rows, cut.rows), bytes = ternary_gemm_scratch_bytes(row, args.depth, args.group);
  pool.run(cut.token_blocks * row_parts, [&](int64_t i, int worker) {
    const int64_t token = i / row_parts * kSumTokens, first = i % row_parts * cut.rows;
    row.run(args, token, std::min(token + kSumTokens, tokens), first, std::min(first + cut.rows, args.rows), scratch + worker * bytes);
  });
}

}  // namespace bitlab::kernels
