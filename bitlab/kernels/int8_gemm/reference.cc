// Portable: a product at a time.
#include "bitlab/kernels/int8_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"

namespace bitlab::kernels {

void int8_gemm_reference(const Int8GemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                         uint8_t*) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep;
  for (int64_t n = row_begin; n < row_end; ++n) {
    const int64_t block = n / kVnBlock * kVnBlock, height = p.rows - block < kVnBlock ? p.rows - block : kVnBlock;
    const auto* w = reinterpret_cast<const int8_t*>(p.weights) + block * steps * kVnStep + 4 * (n - block);
    const auto constants = RowConstants<1>::of(p, n);
    for (int64_t m = token_begin; m < token_end; ++m) {
      int32_t sum = 0;
      for (int64_t k = 0; k < p.depth; ++k) sum += w[k / 4 * 4 * height + k % 4] * p.q[m * p.q_stride + k];
      finish_sum<1>(p, constants, all_ints<1>(sum), m);
    }
  }
}

}  // namespace bitlab::kernels
