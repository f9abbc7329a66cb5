// A LibTorch tensor as the runtime takes it.
#pragma once

#include <ATen/core/Tensor.h>

#include "bitlab/runtime/session.h"

namespace bitlab::deploy {

// `tensor`: contiguous, float32 or int64; it must outlive the view.
inline runtime::TensorView view_of(const at::Tensor& tensor) {
  runtime::TensorView view{tensor.sizes().vec(), nullptr, nullptr};
  if (tensor.scalar_type() == at::kLong) {
    view.indices = tensor.const_data_ptr<int64_t>();
  } else {
    view.data = tensor.const_data_ptr<float>();
  }
  return view;
}

}  // namespace bitlab::deploy
