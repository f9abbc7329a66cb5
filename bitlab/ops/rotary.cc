// Rotary position embedding: the table of angles from the kernel, the rotation in operators that have gradients and run on every device.
#include "bitlab/kernels/rotary/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/tensor_cache.h"
#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {

namespace cpu {

TwoTensors rotary_table(const at::Tensor& positions, int64_t size, double theta) {
  auto [cosines, sines] = meta::rotary_table(positions, size, theta);
  const at::Tensor plain = positions.contiguous();
  kernels::rotary_table(theta, size, {plain.const_data_ptr<int64_t>(), static_cast<size_t>(plain.numel())},
                        cosines.mutable_data_ptr<float>(), sines.mutable_data_ptr<float>())
      .value();
  return {cosines, sines};
}

}  // namespace cpu

namespace meta {

TwoTensors rotary_table(const at::Tensor& positions, int64_t size, double /*theta*/) {
  require(positions.dim() == 1 && size % 2 == 0, ErrorCode::kShapeMismatch,
          "[rotary] positions [T] and an even size, got {} and {}", show(positions), size);
  require(positions.scalar_type() == at::kLong, ErrorCode::kTypeMismatch, "[rotary] int64 positions, got {}",
          c10::toString(positions.scalar_type()));
  const auto make = [&] {
    return at::empty_symint({positions.sym_size(0), size / 2}, positions.options().dtype(at::kFloat));
  };
  return {make(), make()};
}

}  // namespace meta

namespace any_device {

// The host makes the table, and waits for the positions: so it is kept with them.
TwoTensors rotary_table(const at::Tensor& positions, int64_t size, double theta) {
  static auto* tables = new TensorCache<std::pair<int64_t, double>, TwoTensors>;  // never destroyed: tensors may outlive it
  return *tables->get({positions}, {size, theta}, [&] {
    const c10::InferenceMode normal(false);  // whose tensors no gradient may need
    const auto [cosines, sines] = cpu::rotary_table(positions.cpu(), size, theta);
    return std::make_shared<const TwoTensors>(cosines.to(positions.device()), sines.to(positions.device()));
  });
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, double theta) {
  const bool fits =
      x.dim() >= 2 && x.sym_size(-1) % 2 == 0 && positions.dim() == 1 && positions.sym_size(0) == x.sym_size(-2);
  require(fits, ErrorCode::kShapeMismatch, "[rotary] x [..., T, an even size] and positions [T], got {} and {}", show(x),
          show(positions));
  const int64_t size = known(x.sym_size(-1)), half = size / 2;
  auto [cosines, sines] = redispatch::rotary_table(positions, size, theta);
  for (at::Tensor* table : {&cosines, &sines})
    *table = in_type(table->device() == x.device() ? *table : table->to(x.device()), x.scalar_type());
  const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  return at::cat({a * cosines - b * sines, b * cosines + a * sines}, -1);
}

}  // namespace any_device
}  // namespace bitlab::ops
