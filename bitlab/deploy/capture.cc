#include "bitlab/deploy/capture.h"

#include "bitlab/deploy/lowering.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

Result<program::Program> capture_at(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                    int64_t batch, const std::map<std::string, std::string>& metadata) {
  std::vector<int64_t> sizes = example.sizes().vec();
  sizes[0] = batch;
  const at::Tensor input = example.narrow(0, 0, 1).expand(sizes).contiguous();
  module.train();  // drops cached codes, so that packing is recorded and codes get their weights' names
  module.eval();
  BITLAB_TRY(const Recording recording, record(forward, input));
  return Lowering(tensor_names(module)).lower(recording, batch, metadata);
}

}  // namespace

Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                 std::map<std::string, std::string> metadata) {
  if (example.dim() < 2 || example.size(0) < 1 || example.scalar_type() != at::kFloat || !example.device().is_cpu())
    return make_error(ErrorCode::kInvalidArgument,
                      "[capture] a float32 example on the CPU with a batch dimension, got {} of rank {}",
                      c10::toString(example.scalar_type()), example.dim());
  BITLAB_TRY(program::Program program, capture_at(module, forward, example, 2, metadata));
  BITLAB_TRY(const program::Program other, capture_at(module, forward, example, 3, metadata));
  if (print(program) != print(other))
    return make_error(ErrorCode::kUnsupported,
                      "[capture] the same operators for every batch size, got others for 3 than for 2");
  return program;
}

}  // namespace bitlab::deploy
