#include "bitlab/deploy/capture.h"

#include "bitlab/deploy/lowering.h"
#include "bitlab/deploy/readers.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

// The example's first sample, `batch` times.
at::Tensor repeated(const at::Tensor& example, int64_t batch) {
  std::vector<int64_t> sizes = example.sizes().vec();
  sizes[0] = batch;
  return example.narrow(0, 0, 1).expand(sizes).contiguous();
}

Status check_example(const at::Tensor& example) {
  const bool has_type = example.scalar_type() == at::kFloat || example.scalar_type() == at::kLong;
  if (!has_type || !example.device().is_cpu())
    return make_error(ErrorCode::kInvalidArgument, "[capture] a float32 or int64 example on the CPU, got {} on {}",
                      c10::toString(example.scalar_type()), example.device().str());
  if (example.dim() < 2 || example.size(0) < 1)
    return make_error(ErrorCode::kInvalidArgument,
                      "[capture] an example of shape [batch, ...] with one sample or more, got one of shape {}",
                      c10::str(example.sizes()));
  return {};
}

}  // namespace

Result<Captured> capture_module(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                std::map<std::string, std::string> metadata) {
  BITLAB_RETURN_IF_ERROR(check_example(example));
  BITLAB_TRY(RecordedPair pair, record_pair(module, forward, repeated(example, 2), repeated(example, 3)));
  const auto names = tensor_names(module);
  BITLAB_TRY(program::Program program, Lowering(names).lower(pair, metadata));
  std::vector<std::string> unread = unread_modules(module, Readers(pair.recording));
  std::swap(pair.recording, pair.twin);
  BITLAB_TRY(const program::Program other, Lowering(names).lower(pair, std::move(metadata)));
  if (print(program) != print(other))
    return make_error(ErrorCode::kUnsupported,
                      "[capture] the same arguments for every batch size, got some for 2 that differ from those for 3");
  return Captured{std::move(program), std::move(unread)};
}

Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                 std::map<std::string, std::string> metadata) {
  BITLAB_TRY(Captured captured, capture_module(module, forward, example, std::move(metadata)));
  return std::move(captured.program);
}

}  // namespace bitlab::deploy
