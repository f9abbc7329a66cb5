// The forward passes that a program is made of.
#include <algorithm>
#include <exception>

#include <ATen/ops/cat.h>

#include "bitlab/deploy/internal/lowering.h"

namespace bitlab::deploy {
namespace {

bool same_operators(const Recording& a, const Recording& b) {
  return std::equal(a.calls.begin(), a.calls.end(), b.calls.begin(), b.calls.end(),
                    [](const Call& x, const Call& y) { return x.op == y.op; });
}

// The inputs with other floats, so that no constant is what a forward pass computed of them by ways that nobody sees: NumPy, numbers of Python.
NamedTensors with_other_floats(const NamedTensors& inputs) {
  constexpr double kFactor = 0.75;
  NamedTensors others;
  for (const auto& [name, tensor] : inputs) others.set(name, tensor.is_floating_point() ? tensor * kFactor : tensor);
  return others;
}

// Samples that repeat those of the example, each time with their values moved along the last dimension.
NamedTensors varied(const NamedTensors& inputs, const NamedTensors& example) {
  NamedTensors result;
  for (const auto& [name, tensor] : inputs) {
    const int64_t period = example.at(name).dim() == 0 ? 0 : example.at(name).size(0);
    std::vector<at::Tensor> parts;
    for (int64_t begin = 0; period > 0 && tensor.dim() > 1 && begin < tensor.size(0); begin += period)
      parts.push_back(tensor.narrow(0, begin, std::min(period, tensor.size(0) - begin)).roll(begin / period, -1));
    result.set(name, parts.empty() || !tensor.is_floating_point() ? tensor : at::cat(parts));
  }
  return result;
}

Result<Recordings> record_above(const Forward& forward, const NamedTensors& example, const Signature& signature,
                                const program::SymbolSizes& least, Samples samples, bool apart = false) {
  Recordings recordings;
  recordings.signature = signature;
  BITLAB_TRY(const std::vector<program::SymbolSizes> all, recording_sizes(signature.symbols, least, apart));
  recordings.sizes = all[0], recordings.twin_sizes = all[1];
  const auto inputs_at = [&](const program::SymbolSizes& sizes) {
    const NamedTensors inputs = resized(signature, example, sizes);
    return samples == Samples::kVaried ? varied(inputs, example) : inputs;
  };
  BITLAB_TRY(recordings.first, record(forward, inputs_at(recordings.sizes)));
  const NamedTensors other = with_other_floats(inputs_at(recordings.twin_sizes));
  BITLAB_TRY(recordings.twin, record(forward, other));
  // The first pass in eval may have filled a cache that later ones read, as of attention's biases.
  if (!same_operators(recordings.first, recordings.twin)) {
    BITLAB_TRY(recordings.first, record(forward, inputs_at(recordings.sizes)));
  }
  // Of a batch alone two tell all; a network may take no larger sizes.
  if (signature.symbols.size() == 1 || all.size() < 3) return recordings;
  try {
    Result<Recording> third = record(forward, inputs_at(all[2]));
    if (!third.ok() || !same_operators(recordings.first, *third)) return recordings;
    recordings.third = *std::move(third), recordings.third_sizes = all[2];
  } catch (const std::exception&) {
    return recordings;
  }
  return recordings;
}

// The example's sizes of symbols.
program::SymbolSizes sizes_of(const Signature& signature, const NamedTensors& example) {
  program::SymbolSizes sizes;
  sizes.fill(program::kUnbound);
  for (const program::Port& port : signature.inputs) bind_sizes(port.type.shape, example.at(port.name).sizes(), sizes);
  return sizes;
}

// At sizes above the example's, of few samples. All that a network computes is kept: of large inputs that is too much.
Result<Recordings> record_large(const Forward& forward, const NamedTensors& example, const Signature& signature) {
  constexpr int64_t kMostElements = 1 << 18;
  program::SymbolSizes least = sizes_of(signature, example);
  least[0] = 1;
  BITLAB_TRY(const std::vector<program::SymbolSizes> all, recording_sizes(signature.symbols, least, true));
  int64_t count = 0;
  for (const program::Port& port : signature.inputs) count += elements(port.type.shape, all[0]);
  if (count > kMostElements)
    return make_error(ErrorCode::kUnsupported, "[capture] at most {} values of inputs to record at large sizes, got {}",
                      kMostElements, count);
  return record_above(forward, example, signature, least, Samples::kLarge, true);
}

}  // namespace

// At small sizes; where the forward pass fails there, as it does with indices of an example that is larger, at sizes above the example's.
Result<Recordings> record_all(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                              const std::optional<Signature>& declared, Samples samples) {
  BITLAB_TRY(const Signature signature, signature_of(example, declared));
  module.eval();
  constexpr int64_t kManySamples = 29;
  program::SymbolSizes small = program::kOnes;
  if (samples == Samples::kVaried) small[0] = kManySamples;
  const auto above_example = [&]() -> std::optional<Recordings> {
    try {
      Result<Recordings> larger = record_above(forward, example, signature, sizes_of(signature, example), samples);
      return larger.ok() ? std::optional(*std::move(larger)) : std::nullopt;
    } catch (const std::exception&) {  // of Python; what failed at small sizes tells more
      return std::nullopt;
    }
  };
  if (samples == Samples::kLarge) return record_large(forward, example, signature);
  try {
    Result<Recordings> recordings = record_above(forward, example, signature, small, samples);
    if (recordings.ok() || recordings.error().code != ErrorCode::kInvalidArgument) return recordings;
    if (auto larger = above_example()) return *std::move(larger);
    return recordings;
  } catch (const std::exception&) {
    if (auto larger = above_example()) return *std::move(larger);
    throw;
  }
}

std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module) {
  std::unordered_map<const void*, std::string> names;
  for (const auto& parameter : module.named_parameters()) names[parameter.value().unsafeGetTensorImpl()] = parameter.key();
  for (const auto& buffer : module.named_buffers()) names[buffer.value().unsafeGetTensorImpl()] = buffer.key();
  return names;
}

}  // namespace bitlab::deploy
