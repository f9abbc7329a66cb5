#include "bitlab/deploy/deploy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>

#include "bitlab/base/file.h"
#include "bitlab/deploy/internal/tensor_view.h"
#include "bitlab/deploy/torch_formats.h"
#include "bitlab/format/bit/bit.h"

namespace bitlab::deploy {
namespace {

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

double largest(const at::Tensor& tensor) { return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>(); }

// Of one output, whose difference may be `allowed`.
Status compare(const std::string& name, const at::Tensor& expected, const at::Tensor& deployed, double allowed,
               Parity& parity) {
  if (expected.sizes() != deployed.sizes() || expected.scalar_type() != deployed.scalar_type())
    return make_error(ErrorCode::kInternal, "[deploy] an output {} {}, got {} {} (output={})",
                      c10::toString(expected.scalar_type()), c10::str(expected.sizes()),
                      c10::toString(deployed.scalar_type()), c10::str(deployed.sizes()), name);
  const at::Tensor wanted = expected.to(at::kDouble);
  const double difference = largest(wanted - deployed.to(at::kDouble)), magnitude = largest(wanted);
  parity.max_difference = std::max(parity.max_difference, difference);
  parity.max_magnitude = std::max(parity.max_magnitude, magnitude);
  const bool near = difference <= std::max(kBoundBehindQuantizers * magnitude, allowed) || same_bits(expected, deployed);
  if (parity.exact ? same_bits(expected, deployed) : near) return {};
  return make_error(ErrorCode::kInternal,
                    "[deploy] {} outputs of the module and of the runtime, got a difference of {} of {} (output={})",
                    parity.exact ? "equal" : "nearly equal", difference, magnitude, name);
}

// Of each output: how far it moves where each input moves by what the roundings of `nodes` nodes come to, in several draws.
std::vector<double> sensitivities(const Forward& forward, const NamedTensors& example, const NamedTensors& expected,
                                  int64_t nodes) {
  constexpr int kDraws = 3;
  const double rounding = 0x1p-22 * std::sqrt(static_cast<double>(nodes));
  std::vector<double> moved(expected.size());
  auto generator = at::detail::createCPUGenerator(0);
  for (int draw = 0; draw < kDraws; ++draw) {
    NamedTensors inputs = example.clone();
    for (const auto& [name, tensor] : example)
      if (tensor.is_floating_point())
        inputs.set(name, tensor * (at::randint(-1, 2, tensor.sizes(), generator, tensor.options()) * rounding + 1));
    const NamedTensors outputs = forward(inputs);
    for (size_t i = 0; i < expected.size(); ++i)
      moved[i] = std::max(moved[i], largest(outputs[i].second.to(at::kDouble) - expected[i].second.to(at::kDouble)));
  }
  return moved;
}

}  // namespace

Result<Parity> check_parity(const program::Program& program, torch::nn::Module& module, const Forward& forward,
                            const NamedTensors& example) {
  BITLAB_TRY(const NamedTensors deployed, run(program, example));
  module.eval();
  const at::NoGradGuard no_grad;
  const NamedTensors expected = forward(example.clone());
  std::vector<double> allowed(expected.size());
  const auto compare_all = [&]() -> Result<Parity> {
    Parity parity{.exact = program.is_exact()};
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto& [name, tensor] = expected[i];
      BITLAB_RETURN_IF_ERROR(compare(name, tensor.contiguous(), deployed.at(name), kSensitivities * allowed[i], parity));
    }
    return parity;
  };
  Result<Parity> parity = compare_all();
  if (parity.ok() || program.is_exact()) return parity;
  const auto bounded = std::count_if(program.nodes.begin(), program.nodes.end(), [](const program::Node& node) {
    return node.exactness == program::Exactness::kBounded;
  });
  allowed = sensitivities(forward, example, expected, bounded);
  parity = compare_all();
  if (parity.ok()) parity->sensitivity = *std::max_element(allowed.begin(), allowed.end());
  return parity;
}

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
