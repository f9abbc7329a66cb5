#include "bitlab/kernels/activation_quant/activation_quant.h"

#include <array>
#include <atomic>
#include <cstring>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr std::array kRows{
#define BITLAB_KERNEL(name, target, needs, value) \
  ActivationQuantRow{#name, needs, value, BITLAB_BUILT_FOR_##target(activation_quant_##name)},
#include "bitlab/kernels/activation_quant/kernels.def"
#undef BITLAB_KERNEL
};

}  // namespace

std::span<const ActivationQuantRow> activation_quant_rows() { return kRows; }

Selection<ActivationQuantRow> explain_activation_quant(const Machine& machine, const Policy& policy) {
  return select_row(
      "activation_quant", activation_quant_rows(), machine, policy,
      [](const ActivationQuantRow&) { return std::optional<RowVerdict>(); },
      [](const ActivationQuantRow& row) { return row.value_cost; });
}

Result<const ActivationQuantRow*> select_activation_quant(const Machine& machine, const Policy& policy) {
  const auto selection = explain_activation_quant(machine, policy);
  if (selection.row == nullptr) return no_kernel("activation_quant", "float32 to int8", selection.verdicts);
  return selection.row;
}

Status activation_quant(const ActivationQuantRow& kernel, const char* op, const float* x, int64_t rows, int64_t columns,
                        int64_t x_stride, int8_t* q, int64_t q_stride, float* a, ThreadPool& pool) {
  constexpr int64_t kValuesPerTask = 1 << 15;
  const int64_t block = std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(columns, 1));
  std::atomic<int64_t> bad{-1};
  pool.run(ceil_div(rows, block), [&](int64_t task, int) {
    for (int64_t m = task * block; m < std::min(rows, (task + 1) * block); ++m) {
      int8_t* out = q + m * q_stride;
      if (!kernel.run(x + m * x_stride, columns, out, a + m)) bad = m;
      std::memset(out + columns, 0, static_cast<size_t>(q_stride - columns));
    }
  });
  if (bad >= 0) return make_error(ErrorCode::kNotFinite, "[{}] finite input, got NaN or infinity (row={})", op, bad.load());
  return {};
}

}  // namespace bitlab::kernels
