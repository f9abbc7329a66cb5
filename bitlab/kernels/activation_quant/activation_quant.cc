#include "bitlab/kernels/activation_quant/activation_quant.h"

#include <atomic>
#include <cstring>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP activation_quant
#include "bitlab/kernels/internal/kernel_list.def"

Status activation_quant(const ActivationQuantRow& kernel, const char* op, const float* x, int64_t rows, int64_t columns,
                        int64_t x_stride, int8_t* q, int64_t q_stride, float* a, ThreadPool& pool, ActivationScale scale) {
  constexpr int64_t kValuesPerTask = 1 << 15;
  const int64_t block = std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(columns, 1));
  std::atomic<int64_t> bad{-1};
  pool.run(ceil_div(rows, block), [&](int64_t task, int) {
    for (int64_t m = task * block; m < std::min(rows, (task + 1) * block); ++m) {
      int8_t* out = q + m * q_stride;
      if (!kernel.run(x + m * x_stride, columns, scale, out, a + m)) bad = m;
      std::memset(out + columns, 0, static_cast<size_t>(q_stride - columns));
    }
  });
  if (bad >= 0) return make_error(ErrorCode::kNotFinite, "[{}] finite input, got NaN or infinity (row={})", op, bad.load());
  return {};
}

}  // namespace bitlab::kernels
