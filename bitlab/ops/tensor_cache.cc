#include "bitlab/ops/internal/tensor_cache.h"

namespace bitlab::ops {

SeenTensor::SeenTensor()
    : tensor_(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>()),
      storage_(c10::intrusive_ptr<c10::StorageImpl>()) {}

SeenTensor::SeenTensor(const at::Tensor& tensor) : SeenTensor() {
  if (!tensor.defined()) return;
  defined_ = true;
  tensor_ = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(tensor.getIntrusivePtr());
  storage_ = tensor.storage().getWeakStorageImpl();
  data_ = tensor.const_data_ptr();
  version_ = tensor.is_inference() ? -1 : static_cast<int64_t>(tensor._version());
  sizes_ = tensor.sizes().vec();
  strides_ = tensor.strides().vec();
}

bool SeenTensor::is(const at::Tensor& tensor) const {
  if (!defined_ || !tensor.defined()) return defined_ == tensor.defined();
  if (tensor.is_inference()) return false;
  return tensor_._unsafe_get_target() == tensor.unsafeGetTensorImpl() &&
         storage_._unsafe_get_target() == tensor.storage().unsafeGetStorageImpl() && data_ == tensor.const_data_ptr() &&
         version_ == static_cast<int64_t>(tensor._version()) && tensor.sizes() == sizes_ && tensor.strides() == strides_;
}

at::Tensor SeenTensor::lock() const {
  auto strong = tensor_.lock();
  return strong ? at::Tensor(std::move(strong)) : at::Tensor();
}

}  // namespace bitlab::ops
