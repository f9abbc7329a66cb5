#include "bitlab/deploy/deploy.h"

#include "bitlab/base/file.h"
#include "bitlab/deploy/torch_formats.h"
#include "bitlab/format/bit/bit.h"

namespace bitlab::deploy {
Result<Deployment> save(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                        const std::filesystem::path& path, const CaptureOptions& options,
                        const format::WriteOptions& written) {
  register_formats();
  BITLAB_RETURN_IF_ERROR(format::format_of(path, written.format));
  BITLAB_TRY(Captured captured, capture_module(module, forward, example, options));
  program::Program& program = captured.program;
  // For `bitlab inspect --passes`: of what was left out a file tells nothing.
  program.metadata["capture"] = fmt::format(R"({{"recorded":{},"live":{},"constant":{}}})", captured.recorded_calls,
                                            captured.live_calls, captured.constant_calls);
  Deployment deployment;
  deployment.unread = std::move(captured.unread);
  BITLAB_TRY(deployment.parity, check_parity(program, module, forward, example));
  BITLAB_TRY(const Signature signature, signature_of(example, options.signature));
  BITLAB_RETURN_IF_ERROR(check_one_sample(program, module, forward, example, signature));
  BITLAB_TRY(const auto model, runtime::Model::create(program));
  for (const program::Constant& constant : program.constants)
    deployment.weight_file_bytes += format::bit::stored_bytes(program, constant);
  deployment.weight_bytes = model->weight_bytes();
  deployment.float32_weight_bytes = model->float32_weight_bytes();
  BITLAB_TRY(const format::Saved saved, format::save(program, path, written));
  deployment.file_bytes = saved.bytes;
  return deployment;
}

}  // namespace bitlab::deploy
