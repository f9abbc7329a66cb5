#include "bitlab/nn/rotary.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

namespace bitlab::nn {

at::Tensor apply_rotary(const at::Tensor& x, int64_t first, double theta) {
  const int64_t half = x.size(-1) / 2;
  const at::TensorOptions wide = x.options().dtype(at::kDouble);
  const at::Tensor frequency = at::pow(theta, at::arange(half, wide) / -static_cast<double>(half));
  const at::Tensor angle = at::outer(at::arange(first, first + x.size(2), wide), frequency);
  const at::Tensor cos = at::cos(angle).to(x.scalar_type()), sin = at::sin(angle).to(x.scalar_type());
  const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, -1);
}

}  // namespace bitlab::nn
