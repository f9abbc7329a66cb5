#include "bitlab/ops/layout.h"

#include <numeric>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {

WeightLayout::WeightLayout(const char* op, const at::Tensor& weight, bool transposed, int64_t groups)
    : shape_(weight.sym_sizes().begin(), weight.sym_sizes().end()), transposed_(transposed), groups_(groups) {
  const bool plain = weight.dim() == 2 && !transposed && groups == 1;
  require(plain || (weight.dim() >= 3 && weight.dim() <= 5), ErrorCode::kShapeMismatch,
          "[{}] a weight [N, K], or [N, C, kernel...] of a convolution with 1 to 3 dimensions, got {}", op, show(weight));
  require(groups >= 1 && shape_[0] % groups == 0, ErrorCode::kShapeMismatch, "[{}] a weight of {} groups, got {}", op,
          groups, show(weight));
  require(weight.sym_numel() > 0, ErrorCode::kShapeMismatch, "[{}] a weight with values, got {}", op, show(weight));
}

c10::SymInt WeightLayout::rows() const { return transposed_ ? shape_[1] * groups_ : shape_[0]; }

c10::SymInt WeightLayout::depth() const {
  const c10::SymInt count = std::accumulate(shape_.begin(), shape_.end(), c10::SymInt(1), std::multiplies<>());
  return count / rows();
}

at::Tensor WeightLayout::to_matrix(const at::Tensor& weight) const {
  if (shape_.size() == 2) return weight.contiguous();
  const c10::SymInt n = rows();
  if (!transposed_) return weight.movedim(1, -1).reshape_symint({n, -1});
  // [groups, C / groups, N / groups, kernel...] to [groups, N / groups, kernel..., C / groups]
  c10::SymDimVector grouped{groups_, shape_[0] / groups_};
  grouped.append(shape_.begin() + 1, shape_.end());
  return weight.reshape_symint(grouped).movedim(1, -1).reshape_symint({n, -1});
}

at::Tensor WeightLayout::from_matrix(const at::Tensor& matrix) const {
  if (shape_.size() == 2) return matrix;
  c10::SymDimVector kernel(shape_.begin() + 2, shape_.end());
  if (!transposed_) {
    c10::SymDimVector last{shape_[0]};
    last.append(kernel.begin(), kernel.end());
    last.push_back(shape_[1]);
    return matrix.reshape_symint(last).movedim(-1, 1);
  }
  c10::SymDimVector last{groups_, shape_[1]};
  last.append(kernel.begin(), kernel.end());
  last.push_back(shape_[0] / groups_);
  return matrix.reshape_symint(last).movedim(-1, 1).reshape_symint(shape_);
}

at::Tensor WeightLayout::spread(const at::Tensor& scale, const ternary::WeightSpec& spec) const {
  if (spec.granularity == ternary::Granularity::kTensor) return scale;
  if (spec.granularity == ternary::Granularity::kGroup)
    return from_matrix(
        in_type(scale, at::kFloat).repeat_interleave_symint(c10::SymInt(spec.group), 1).narrow_symint(1, 0, depth()));
  c10::SymDimVector shape(shape_.size(), 1);
  shape[0] = shape_[0];
  if (!transposed_) return scale.reshape_symint(shape);
  shape[1] = shape_[1];
  return scale.reshape_symint({groups_, 1, shape_[1]})
      .expand_symint({groups_, shape_[0] / groups_, shape_[1]})
      .reshape_symint(shape);
}

at::Tensor WeightLayout::sum_to_scale(const at::Tensor& values, const ternary::WeightSpec& spec) const {
  if (spec.granularity == ternary::Granularity::kTensor) return values.sum().reshape({1});
  return to_matrix(values).sum(1);
}

}  // namespace bitlab::ops
