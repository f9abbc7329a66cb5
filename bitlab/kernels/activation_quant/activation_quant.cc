#include "bitlab/kernels/activation_quant/activation_quant.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {

#define BITLAB_KERNEL_OP activation_quant
#include "bitlab/kernels/internal/kernel_list.def"

namespace {

constexpr int64_t kValuesPerTask = 1 << 15;

// A long row, as the sample of a convolution is, on all threads: in parts, which agree upon the largest value first. False where a value is NaN or infinite.
bool in_parts(const ActivationQuantRow& kernel, const float* x, int64_t columns, ActivationScale scale, int8_t* q, float* a,
              ThreadPool& pool) {
  constexpr int64_t kMostParts = 64;
  const int64_t part = round_up(std::max(kValuesPerTask / 4, ceil_div(columns, kMostParts)), kAlignment);
  std::atomic<bool> finite{true};
  float values[kMostParts] = {};  // of each part: its largest |x|, then its scale
  const auto each_part = [&](int8_t* out) {
    pool.run(ceil_div(columns, part), [&](int64_t i, int) {
      const int64_t begin = i * part, count = std::min(part, columns - begin);
      if (!kernel.run(x + begin, count, scale, out == nullptr ? out : out + begin, values + i)) finite = false;
    });
    return finite.load();
  };
  if (scale.inv == 0) {
    if (!each_part(nullptr)) return false;
    scale = scale.of(*std::max_element(values, values + kMostParts));
  }
  if (!each_part(q)) return false;
  *a = values[0];
  return true;
}

}  // namespace

Status activation_quant(const ActivationQuantRow& kernel, const char* op, const float* x, int64_t rows, int64_t columns,
                        int64_t x_stride, int8_t* q, int64_t q_stride, float* a, ThreadPool& pool, ActivationScale scale) {
  const int64_t block = std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(columns, 1));
  const bool are_long = rows < pool.threads() && columns > kValuesPerTask;
  std::atomic<int64_t> bad{-1};
  const auto quantize_row = [&](int64_t m) {
    const float* from = x + m * x_stride;
    int8_t* out = q + m * q_stride;
    if (!(are_long ? in_parts(kernel, from, columns, scale, out, a + m, pool)
                   : kernel.run(from, columns, scale, out, a + m)))
      bad = m;
    std::memset(out + columns, 0, static_cast<size_t>(q_stride - columns));
  };
  if (are_long) {
    for (int64_t m = 0; m < rows; ++m) quantize_row(m);
  } else {
    pool.run(ceil_div(rows, block), [&](int64_t task, int) {
      for (int64_t m = task * block; m < std::min(rows, (task + 1) * block); ++m) quantize_row(m);
    });
  }
  if (bad >= 0) return make_error(ErrorCode::kNotFinite, "[{}] finite input, got NaN or infinity (row={})", op, bad.load());
  return {};
}

}  // namespace bitlab::kernels
