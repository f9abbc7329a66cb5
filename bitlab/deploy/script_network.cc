#include "bitlab/deploy/script_network.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/frontend/error_report.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include "bitlab/deploy/torchscript/torchscript.h"

namespace bitlab::deploy {
namespace {

// The script's parameters and buffers under a module, in modules of its submodules' names.
void register_all(torch::nn::Module& module, const torch::jit::Module& script) {
  for (const auto& parameter : script.named_parameters(/*recurse=*/false))
    module.register_parameter(parameter.name, parameter.value, parameter.value.requires_grad());
  for (const auto& buffer : script.named_buffers(/*recurse=*/false)) module.register_buffer(buffer.name, buffer.value);
  for (const auto& child : script.named_children())
    register_all(*module.register_module(child.name, std::make_shared<torch::nn::Module>(child.name)), child.value);
}

std::vector<std::string> arguments_of(const torch::jit::Module& script) {
  const auto method = script.find_method("forward");
  if (!method)
    throw Exception(make_error(ErrorCode::kUnsupported, "[torchscript] a module with a forward(), got one without"));
  std::vector<std::string> names;
  for (const c10::Argument& argument : method->function().getSchema().arguments())
    if (argument.name() != "self" && !argument.default_value()) names.push_back(argument.name());
  return names;
}

at::Tensor tensor_of(const c10::IValue& value) {
  if (!value.isTensor())
    throw Exception(
        make_error(ErrorCode::kUnsupported, "[torchscript] outputs that are tensors, got one of {}", value.type()->str()));
  return value.toTensor();
}

nn::NamedTensors named(const c10::IValue& result) {
  if (result.isTensor()) return {{std::string(nn::kOutput), result.toTensor()}};
  nn::NamedTensors outputs;
  if (result.isGenericDict()) {
    for (const auto& entry : result.toGenericDict()) {
      if (!entry.key().isString())
        throw Exception(make_error(ErrorCode::kUnsupported, "[torchscript] a dict of outputs by name, got keys of {}",
                                   entry.key().type()->str()));
      outputs.set(entry.key().toStringRef(), tensor_of(entry.value()));
    }
    return outputs;
  }
  if (!result.isTuple() && !result.isList()) return {{std::string(nn::kOutput), tensor_of(result)}};  // which throws
  size_t i = 0;
  const auto add = [&](const c10::IValue& value) { outputs.set(fmt::format("output_{}", i++), tensor_of(value)); };
  if (result.isTuple()) {
    for (const c10::IValue& value : result.toTupleRef().elements()) add(value);
  } else {
    for (const c10::IValue& value : result.toListRef()) add(value);
  }
  return outputs;
}

}  // namespace

ScriptNetwork::ScriptNetwork(torch::jit::Module script, std::vector<std::string> inputs, std::vector<std::string> outputs)
    : torch::nn::Module("ScriptNetwork"),
      script_(std::move(script)),
      inputs_(inputs.empty() ? arguments_of(script_) : std::move(inputs)),
      outputs_(std::move(outputs)) {
  register_all(*this, script_);
  eval();
}

void ScriptNetwork::train(bool on) {
  torch::nn::Module::train(on);
  script_.train(on);
}

nn::NamedTensors ScriptNetwork::forward(const nn::NamedTensors& inputs) {
  std::vector<c10::IValue> arguments;
  for (const std::string& name : inputs_) {
    const at::Tensor* tensor = inputs.find(name);
    if (tensor == nullptr || inputs.size() != inputs_.size())
      throw Exception(make_error(ErrorCode::kInvalidArgument, "[torchscript] the inputs {{{}}}, got {{{}}}",
                                 fmt::join(inputs_, ", "), inputs.names()));
    arguments.emplace_back(*tensor);
  }
  const torch::jit::GraphOptimizerEnabledGuard as_written(false);
  const nn::NamedTensors found = named(script_.forward(std::move(arguments)));
  if (outputs_.empty()) return found;
  if (found.size() != outputs_.size())
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[torchscript] the outputs {{{}}}, got {{{}}}",
                               fmt::join(outputs_, ", "), found.names()));
  nn::NamedTensors outputs;
  for (size_t i = 0; i < outputs_.size(); ++i) outputs.set(outputs_[i], found[i].second);
  return outputs;
}

Result<std::shared_ptr<ScriptNetwork>> network_of(const program::Program& program) {
  if (!program.states.empty())
    return make_error(ErrorCode::kUnsupported, "[torchscript] a program without states to make a module of, got one with {}",
                      program.states.size());
  BITLAB_TRY(const torch::jit::Module script, to_torchscript(program, "packed", /*trainable=*/true));
  std::vector<std::string> inputs, outputs;
  for (const program::ValueId id : program.inputs) inputs.push_back(program.value(id).name);
  for (const program::Output& output : program.outputs) outputs.push_back(output.name);
  return std::make_shared<ScriptNetwork>(script, std::move(inputs), std::move(outputs));
}

Result<std::shared_ptr<ScriptNetwork>> load_script(const std::filesystem::path& path) {
  if (std::error_code ignored; !std::filesystem::is_regular_file(path, ignored))
    return make_error(ErrorCode::kNotFound, "[torchscript] a file, found none (path={})", path.string());
  try {
    return std::make_shared<ScriptNetwork>(torch::jit::load(path.string(), at::kCPU));
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kCorrupt, "[torchscript] a file by torch.jit.save, got another: {} (path={})",
                      error.what_without_backtrace(), path.string());
  } catch (const torch::jit::ErrorReport& error) {
    return make_error(ErrorCode::kCorrupt, "[torchscript] a file by torch.jit.save, got another: {} (path={})", error.what(),
                      path.string());
  }
}

}  // namespace bitlab::deploy
