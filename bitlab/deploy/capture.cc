#include "bitlab/deploy/capture.h"

#include "bitlab/deploy/lowering.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

// The example's first sample, `batch` times.
at::Tensor repeated(const at::Tensor& example, int64_t batch) {
  std::vector<int64_t> sizes = example.sizes().vec();
  sizes[0] = batch;
  return example.narrow(0, 0, 1).expand(sizes).contiguous();
}

}  // namespace

Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                 std::map<std::string, std::string> metadata) {
  const bool is_index = example.scalar_type() == at::kLong;
  if (example.dim() < 2 || example.size(0) < 1 || (example.scalar_type() != at::kFloat && !is_index) ||
      !example.device().is_cpu())
    return make_error(ErrorCode::kInvalidArgument,
                      "[capture] a float32 or int64 example on the CPU with a batch dimension, got {} of rank {}",
                      c10::toString(example.scalar_type()), example.dim());
  BITLAB_TRY(RecordedPair pair, record_pair(module, forward, repeated(example, 2), repeated(example, 3)));
  const auto names = tensor_names(module);
  BITLAB_TRY(program::Program program, Lowering(names).lower(pair, metadata));
  std::swap(pair.recording, pair.twin);
  BITLAB_TRY(const program::Program other, Lowering(names).lower(pair, std::move(metadata)));
  if (print(program) != print(other))
    return make_error(ErrorCode::kUnsupported,
                      "[capture] the same arguments for every batch size, got others for 3 than for 2");
  return program;
}

}  // namespace bitlab::deploy
