#include "bitlab/nn/bit_batch_norm.h"

#include <ATen/Context.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "bitlab/nn/layer.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {

template <size_t D, class Derived>
void BitBatchNormNd<D, Derived>::reset() {
  const bool affine = options.affine(), tracked = options.track_running_stats();
  const int64_t channels = options.num_features();
  weight = this->register_parameter("weight", affine ? at::ones({channels}) : at::Tensor(), affine);
  bias = this->register_parameter("bias", affine ? at::zeros({channels}) : at::Tensor(), affine);
  if (!tracked) return;
  running_mean = this->register_buffer("running_mean", at::zeros({channels}));
  running_var = this->register_buffer("running_var", at::ones({channels}));
  num_batches_tracked = this->register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
}

template <size_t D, class Derived>
void BitBatchNormNd<D, Derived>::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::BitBatchNorm" << D << "d(" << options.num_features() << ", eps=" << options.eps() << ", momentum=";
  options.momentum() ? stream << *options.momentum() : stream << "none";
  stream << ", affine=" << std::boolalpha << options.affine() << ", track_running_stats=" << options.track_running_stats()
         << ')';
}

template <size_t D, class Derived>
at::Tensor BitBatchNormNd<D, Derived>::forward(const at::Tensor& x) {
  const int64_t rank = static_cast<int64_t>(D) + 2;
  if ((x.dim() != rank && (D != 1 || x.dim() != 2)) || x.size(1) != options.num_features())
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[BitBatchNorm{}d] x of rank {}{} with {} channels, got {}", D,
                               rank, D == 1 ? " or 2" : "", options.num_features(), c10::str(x.sizes())));
  const bool tracked = running_mean.defined();
  if (tracked && !this->is_training())
    return ops::batch_norm(x, ops::optional(weight), ops::optional(bias), running_mean, running_var, options.eps());
  double share = options.momentum().value_or(0);
  if (tracked) {
    num_batches_tracked.add_(1);
    if (!options.momentum()) share = 1 / num_batches_tracked.template item<double>();
  }
  return at::batch_norm(x, optional(weight), optional(bias), optional(running_mean), optional(running_var), true, share,
                        options.eps(), at::globalContext().userEnabledCuDNN());
}

template class BitBatchNormNd<1, BitBatchNorm1dImpl>;
template class BitBatchNormNd<2, BitBatchNorm2dImpl>;
template class BitBatchNormNd<3, BitBatchNorm3dImpl>;

}  // namespace bitlab::nn
