// Rotary position embedding: the table of angles from the kernel, the rotation in operators that have gradients and run on every device.
#include "bitlab/kernels/rotary/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/implementations.h"

namespace bitlab::ops::any_device {

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, double theta) {
  const bool fits = x.dim() >= 2 && x.size(-1) % 2 == 0 && positions.dim() == 1 && positions.size(0) == x.size(-2);
  require(fits, ErrorCode::kShapeMismatch, "[rotary] x [..., T, an even size] and positions [T], got {} and {}", show(x),
          show(positions));
  require(positions.scalar_type() == at::kLong, ErrorCode::kTypeMismatch, "[rotary] int64 positions, got {}",
          c10::toString(positions.scalar_type()));
  const int64_t half = x.size(-1) / 2, tokens = positions.size(0);
  const at::Tensor on_cpu = positions.cpu().contiguous();
  at::Tensor cosines = at::empty({tokens, half}, at::kFloat), sines = at::empty({tokens, half}, at::kFloat);
  kernels::rotary_table(theta, x.size(-1), {on_cpu.const_data_ptr<int64_t>(), static_cast<size_t>(tokens)},
                        cosines.mutable_data_ptr<float>(), sines.mutable_data_ptr<float>())
      .value();
  cosines = cosines.to(x.options()), sines = sines.to(x.options());
  const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  return at::cat({a * cosines - b * sines, b * cosines + a * sines}, -1);
}

}  // namespace bitlab::ops::any_device
