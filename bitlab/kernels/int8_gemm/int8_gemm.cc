#include "bitlab/kernels/int8_gemm/int8_gemm.h"

#include <algorithm>

#include "bitlab/kernels/ternary_gemm/internal/cut.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP int8_gemm
#include "bitlab/kernels/internal/kernel_list.def"

Result<AlignedBuffer> pack_int8(std::span<const int8_t> w, int64_t rows, int64_t depth, int64_t groups) {
  const auto least = std::find(w.begin(), w.end(), int8_t{-128});
  if (least != w.end())
    return make_error(ErrorCode::kInvalidArgument, "[int8_gemm] weights in [-127, 127], got -128 (row={})",
                      (least - w.begin()) / depth);
  const int64_t steps = ceil_div(depth, kVnStep);
  BITLAB_TRY(AlignedBuffer packed, AlignedBuffer::allocate(static_cast<size_t>(rows * steps * kVnStep)));
  const int64_t own = rows / groups;
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t block = n / own * own + n % own / kVnBlock * kVnBlock,
                  height = std::min((n / own + 1) * own - block, kVnBlock);
    uint8_t* out = packed.data() + block * steps * kVnStep + 4 * (n - block);
    for (int64_t k = 0; k < depth; ++k)
      out[k / 4 * 4 * height + k % 4] = static_cast<uint8_t>(w[static_cast<size_t>(n * depth + k)]);
  }
  return packed;
}

void int8_gemm(const Int8GemmRow& row, const Int8GemmArgs& args, int64_t tokens, uint8_t* scratch, ThreadPool& pool) {
  run_in_parts(row.run, args, tokens, scratch, kInt8GemmScratchBytes, pool);
}

}  // namespace bitlab::kernels
