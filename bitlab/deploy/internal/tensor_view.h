// LibTorch tensors as the runtime takes them, and the runtime's results as tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "bitlab/deploy/signature.h"
#include "bitlab/runtime/session.h"

namespace bitlab::deploy {

// `tensor`: contiguous, of a dtype that programs have; it must outlive the view.
inline runtime::TensorView view_of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), dtype_of(tensor.scalar_type()), tensor.const_data_ptr()};
}

// Runs a session on named inputs. Errors: those of the session.
Result<NamedTensors> run(runtime::Session& session, const NamedTensors& inputs);

// The same with a program's own session of one thread.
Result<NamedTensors> run(const program::Program& program, const NamedTensors& inputs);

}  // namespace bitlab::deploy
