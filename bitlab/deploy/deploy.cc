#include "bitlab/deploy/deploy.h"

#include <cstring>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include "bitlab/base/file.h"
#include "bitlab/deploy/tensor_view.h"
#include "bitlab/format/bit/bit.h"

namespace bitlab::deploy {
namespace {

Result<at::Tensor> run_program(const program::Program& program, const at::Tensor& input) {
  BITLAB_TRY(auto model, runtime::Model::create(program));
  BITLAB_TRY(auto session, runtime::Session::create(model));
  const at::Tensor plain = input.contiguous();
  const runtime::TensorView view = view_of(plain);
  BITLAB_TRY(const auto outputs, session->run({&view, 1}));
  return at::from_blob(const_cast<float*>(outputs[0].data), outputs[0].shape, at::kFloat).clone();
}

}  // namespace

Result<Parity> check_parity(const program::Program& program, torch::nn::Module& module, const Forward& forward,
                            const at::Tensor& example) {
  BITLAB_TRY(const at::Tensor deployed, run_program(program, example));
  module.eval();
  at::NoGradGuard no_grad;
  const at::Tensor expected = forward(example.clone()).contiguous();  // it may work in place
  Parity parity{program.is_exact(), 0, 0};
  parity.max_difference = (expected.to(at::kDouble) - deployed.to(at::kDouble)).abs().max().item<double>();
  parity.max_magnitude = expected.abs().max().item<double>();
  const bool same = expected.sizes() == deployed.sizes() &&
                    std::memcmp(expected.const_data_ptr(), deployed.const_data_ptr(), expected.nbytes()) == 0;
  if (parity.exact ? !same : !(parity.max_difference <= kBoundBehindQuantizers * parity.max_magnitude))
    return make_error(ErrorCode::kInternal,
                      "[deploy] {} outputs of the module and of the runtime, got a difference of {} of {}",
                      parity.exact ? "equal" : "nearly equal", parity.max_difference, parity.max_magnitude);
  return parity;
}

Result<Deployment> save(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                        const std::filesystem::path& path, std::map<std::string, std::string> metadata) {
  BITLAB_TRY(Captured captured, capture_module(module, forward, example, std::move(metadata)));
  const program::Program& program = captured.program;
  Deployment deployment;
  deployment.unread = std::move(captured.unread);
  BITLAB_TRY(deployment.parity, check_parity(program, module, forward, example));
  BITLAB_TRY(const auto model, runtime::Model::create(program));
  for (const program::Constant& constant : program.constants)
    deployment.weight_file_bytes += format::bit::stored_bytes(program, constant);
  deployment.weight_bytes = model->weight_bytes();
  deployment.float32_weight_bytes = model->float32_weight_bytes();
  BITLAB_TRY(const std::string bytes, format::bit::serialize(program));
  deployment.file_bytes = static_cast<int64_t>(bytes.size());
  BITLAB_RETURN_IF_ERROR(write_file_atomic(path, std::string_view(bytes)));
  return deployment;
}

}  // namespace bitlab::deploy
