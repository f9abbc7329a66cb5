#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

#include "bitlab/kernels/ternary_gemm/internal/cut.h"

namespace bitlab::kernels {

int64_t ternary_gemm_scratch_bytes(const TernaryGemmRow& row, int64_t depth, int64_t group) {
  const int64_t own = row.scratch.bytes + row.scratch.bytes_a_k * round_up(depth, kVnStep);
  return round_up(sums_bytes(depth, group) + own, kAlignment);
}

void ternary_gemm(const TernaryGemmRow& row, const TernaryGemmArgs& args, int64_t tokens, uint8_t* scratch,
                  ThreadPool& pool) {
  run_in_parts(row.run, args, tokens, scratch, ternary_gemm_scratch_bytes(row, args.depth, args.group), pool);
}

}  // namespace bitlab::kernels
