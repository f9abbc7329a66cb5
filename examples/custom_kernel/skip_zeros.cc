// Reads canonical rows (two bits a weight, t + 1) and visits only the weights that are not zero.
#include "skip_zeros.h"

#include "bitlab/kernels/ternary_gemm/epilogue.h"
#include "bitlab/ternary/codes.h"

using namespace bitlab;
using namespace bitlab::kernels;

namespace {

// The sum of t q over one row. A byte of four zeros is 0b01010101.
int32_t dot(const uint8_t* row, const int8_t* q, int64_t depth) {
  int32_t sum = 0;
  for (int64_t k = 0; k < depth; k += 4) {
    const uint8_t byte = row[k / 4];
    if (byte == 0x55) continue;
    for (int64_t j = 0; j < 4 && k + j < depth; ++j) sum += (((byte >> (2 * j)) & 3) - 1) * q[k + j];
  }
  return sum;
}

void skip_zeros(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                uint8_t*) {
  for (int64_t n = row_begin; n < row_end; ++n) {
    const auto constants = RowConstants<1>::of(p, n);  // scale, bias and what else follows the sum
    for (int64_t m = token_begin; m < token_end; ++m) {
      const int32_t sum = dot(p.weights + n * ternary::code_row_bytes(p.depth), p.q + m * p.q_stride, p.depth);
      finish_sum<1>(p, constants, all_ints<1>(sum), m);  // the contract's epilogue
    }
  }
}

}  // namespace

const TernaryGemmRow& skip_zeros_row() {
  // No CPU feature needed, canonical rows, one scale a row. The cost, 0.01 ns for 16 k of 8 rows, makes selection prefer it; measure yours.
  static const TernaryGemmRow row{"skip_zeros", {}, TernaryLayout::kRows, TernaryGemmServes::kPlainOnly, {0, 0.01, 0, 1}, {},
                                  skip_zeros};
  return row;
}
