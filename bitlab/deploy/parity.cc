// Whether a program computes what its module does.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include <ATen/core/grad_mode.h>

#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/internal/tensor_view.h"

namespace bitlab::deploy {
namespace {

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

double largest(const at::Tensor& tensor) { return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>(); }

// Of one output, whose difference may be `allowed`.
Status compare(const std::string& name, const at::Tensor& of_module, const at::Tensor& deployed, double allowed,
               Parity& parity) {
  const at::Tensor expected = is_narrow(of_module.scalar_type()) ? of_module.to(at::kInt) : of_module;
  if (expected.sizes() != deployed.sizes() || expected.scalar_type() != deployed.scalar_type())
    return make_error(ErrorCode::kInternal, "[deploy] an output {} {}, got {} {} (output={})",
                      c10::toString(expected.scalar_type()), c10::str(expected.sizes()),
                      c10::toString(deployed.scalar_type()), c10::str(deployed.sizes()), name);
  const at::Tensor wanted = expected.to(at::kDouble), found = deployed.to(at::kDouble);
  const at::Tensor agree = wanted.eq(found).logical_or(wanted.isnan().logical_and(found.isnan()));
  const double difference = largest((wanted - found).masked_fill(agree, 0));
  const double magnitude = largest(wanted.masked_fill(wanted.isfinite().logical_not(), 0));
  parity.max_difference = std::max(parity.max_difference, difference);
  parity.max_magnitude = std::max(parity.max_magnitude, magnitude);
  const bool near = difference <= std::max(kBoundBehindQuantizers * magnitude, allowed);
  if (parity.exact ? same_bits(expected, deployed) : near) return {};
  return make_error(ErrorCode::kInternal,
                    "[deploy] {} outputs of the module and of the runtime, got a difference of {} of {} (output={})",
                    parity.exact ? "equal" : "nearly equal", difference, magnitude, name);
}

// The program with other roundings: each float32 input, and each such result of a bounded node, is multiplied by numbers next to 1, which differ along its last
// dimension of fixed size, so that no scale takes them away.
program::Program with_roundings(const program::Program& original, uint32_t seed) {
  constexpr float kRounding = 0x1p-22F;
  program::Program result = original;
  result.nodes.clear();
  std::vector<program::ValueId> now(original.values.size());
  for (size_t i = 0; i < now.size(); ++i) now[i] = static_cast<program::ValueId>(i);
  const auto current = [&](program::ValueId id) { return id == program::kNone ? id : now[static_cast<size_t>(id)]; };
  std::mt19937 generator(seed);
  const auto add_value = [&](program::Value value) {
    value.name += fmt::format("~{}", result.values.size());  // names are unique
    result.values.push_back(std::move(value));
    return static_cast<program::ValueId>(result.values.size() - 1);
  };
  const auto round = [&](program::ValueId id) {
    const program::Value value = result.value(id);
    if (value.dtype != program::DType::kFloat32 || value.shape.empty()) return;
    program::Shape ones(value.shape.size(), 1);
    const auto fixed =
        std::find_if(value.shape.rbegin(), value.shape.rend(), [](const program::Dim& dim) { return dim.is_number(); });
    if (fixed != value.shape.rend()) ones[static_cast<size_t>(value.shape.rend() - fixed) - 1] = *fixed;
    auto factors = std::make_shared<std::vector<float>>(static_cast<size_t>(program::volume(ones).factor));
    for (float& factor : *factors) factor = 1 + kRounding * (static_cast<float>(generator() % 3) - 1);
    program::Value constant;
    constant.name = value.name;
    constant.kind = program::ValueKind::kConstant;
    constant.shape = ones;
    const program::ValueId by = add_value(constant);
    result.constants.push_back({by, program::FloatData(*factors), factors});
    program::Value rounded = value;
    rounded.kind = program::ValueKind::kResult;
    const program::ValueId moved = add_value(std::move(rounded));
    result.nodes.push_back(
        {program::Op::mul, result.value(moved).name, {id, by}, {moved}, {}, program::Exactness::kIeeeExact});
    now[static_cast<size_t>(id)] = moved;
  };
  for (const program::ValueId input : original.inputs) round(input);
  for (program::Node node : original.nodes) {
    for (program::ValueId& input : node.inputs) input = current(input);
    result.nodes.push_back(node);
    if (node.exactness == program::Exactness::kBounded) std::ranges::for_each(node.outputs, round);
  }
  for (program::Output& output : result.outputs) output.value = current(output.value);
  return result;
}

// Of each output: how far it moves with other roundings, in several draws.
Result<std::vector<double>> sensitivities(const program::Program& program, const NamedTensors& example,
                                          const NamedTensors& deployed) {
  constexpr uint32_t kDraws = 8;
  std::vector<double> moved(deployed.size());
  for (uint32_t draw = 0; draw < kDraws; ++draw) {
    BITLAB_TRY(const NamedTensors outputs, run(with_roundings(program, draw), example));
    for (size_t i = 0; i < moved.size(); ++i)
      moved[i] = std::max(moved[i], largest(outputs[i].second.to(at::kDouble) - deployed[i].second.to(at::kDouble)));
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
  BITLAB_TRY(allowed, sensitivities(program, example, deployed));
  parity = compare_all();
  if (parity.ok()) parity->sensitivity = *std::max_element(allowed.begin(), allowed.end());
  return parity;
}

Status check_one_sample(const program::Program& program, torch::nn::Module& module, const Forward& forward,
                        const NamedTensors& example, const Signature& signature) {
  program::SymbolSizes sizes;
  sizes.fill(program::kUnbound);
  for (const program::Port& port : signature.inputs) bind_sizes(port.type.shape, example.at(port.name).sizes(), sizes);
  if (sizes[0] <= 1 || signature.symbols[0].min > 1) return {};
  sizes[0] = 1;
  const NamedTensors one = resized(signature, example, sizes);
  BITLAB_TRY(const NamedTensors deployed, run(program, one));
  const auto in_shape = [&](const NamedTensors& inputs) {
    NamedTensors outputs = forward(inputs);
    for (const auto& [name, found] : deployed)
      if (const at::Tensor* tensor = outputs.find(name); tensor != nullptr && tensor->numel() == found.numel())
        outputs.set(name, tensor->reshape(found.sizes()));
    return outputs;
  };
  Result<Parity> parity = Parity{};
  try {
    parity = check_parity(program, module, in_shape, one);
  } catch (const std::exception&) {
    return {};  // a network that takes no single sample
  }
  if (parity.ok()) return {};
  return make_error(ErrorCode::kUnsupported, "[deploy] one function for batches of every size, got another one for 1: {}",
                    parity.error().message);
}

}  // namespace bitlab::deploy
