// The forward passes that a program is made of.
#include <algorithm>
#include <exception>
#include <iterator>
#include <span>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include <ATen/ops/cat.h>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/internal/refusals.h"

namespace bitlab::deploy {
namespace {

constexpr std::string_view kParts[] = {"aten::slice.Tensor", "aten::narrow"};
constexpr std::string_view kPads[] = {"aten::pad", "aten::constant_pad_nd"};

bool is_one_of(const Call& call, std::span<const std::string_view> names) {
  return std::find(names.begin(), names.end(), call.op) != names.end();
}

// The same operator; parts are of the same dimension, since either of two may be left out.
bool same_operator(const Call& a, const Call& b) {
  return a.op == b.op && (!is_one_of(a, kParts) || a.argument("dim").toInt() == b.argument("dim").toInt());
}

bool same_operators(const Recording& a, const Recording& b) {
  return std::equal(a.calls.begin(), a.calls.end(), b.calls.begin(), b.calls.end(), same_operator);
}

// Python makes an alias where a part is all of a dimension, and networks pad where there is something to pad: calls that `like` has, and that would do
// nothing in the other recording, are put into it there.
void add_idle_calls(const Recording& like, Recording& other) {
  std::unordered_map<const void*, at::Tensor> same;  // tensors of `other` by those of `like`
  for (const auto& [name, tensor] : like.inputs) same[identity(tensor)] = other.inputs.at(name);
  const auto remember = [&](const Call& a, const Call& b) {
    for (size_t i = 0; i < std::min(a.outputs.size(), b.outputs.size()); ++i)
      if (a.outputs[i].isTensor() && b.outputs[i].isTensor())
        same[identity(a.outputs[i].toTensor())] = b.outputs[i].toTensor();
  };
  std::unordered_set<const void*> made;  // what no call of `like` makes is a parameter, and the same tensor in both
  for (const Call& call : like.calls)
    for (const c10::IValue& output : call.outputs)
      for_each_tensor(output, [&](const at::Tensor& tensor) { made.insert(identity(tensor)); });
  std::vector<Call> calls;
  size_t next = 0;
  for (const Call& call : like.calls) {
    if (next < other.calls.size() && same_operator(other.calls[next], call)) {
      remember(call, other.calls[next]);
      calls.push_back(std::move(other.calls[next++]));
      continue;
    }
    if (!is_one_of(call, kPads) && !is_one_of(call, kParts)) return;
    const at::Tensor whole = call.tensor(call.arguments[0].name);
    const auto self = same.find(identity(whole));
    if (self == same.end() && made.contains(identity(whole))) return;
    Call idle = call;
    const at::Tensor tensor = self == same.end() ? whole : self->second;
    const bool is_alias = next < other.calls.size() && other.calls[next].op == "aten::alias";
    const at::Tensor made = is_alias ? other.calls[next++].outputs.at(0).toTensor() : tensor;
    idle.arguments[0].value = tensor;
    for (Argument& argument : idle.arguments) {
      if (argument.name == "pad") argument.value = std::vector<int64_t>(call.argument("pad").toIntVector().size(), 0);
      if (argument.name == "start") argument.value = 0;
      if (argument.name == "end" || argument.name == "length") argument.value = tensor.size(call.argument("dim").toInt());
    }
    idle.outputs = {made};
    idle.shapes = {made.sizes().vec()};
    remember(call, idle);
    calls.push_back(std::move(idle));
  }
  calls.insert(calls.end(), std::make_move_iterator(other.calls.begin() + static_cast<std::ptrdiff_t>(next)),
               std::make_move_iterator(other.calls.end()));
  other.calls = std::move(calls);
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

NamedTensors inputs_at(const Signature& signature, const NamedTensors& example, const program::SymbolSizes& sizes,
                       Samples samples) {
  const NamedTensors inputs = resized(signature, example, sizes);
  return samples == Samples::kVaried ? varied(inputs, example) : inputs;
}

// The example's sizes of symbols.
program::SymbolSizes sizes_of(const Signature& signature, const NamedTensors& example) {
  program::SymbolSizes sizes;
  sizes.fill(program::kUnbound);
  for (const program::Port& port : signature.inputs) bind_sizes(port.type.shape, example.at(port.name).sizes(), sizes);
  return sizes;
}

// The largest recorded size of each symbol.
program::SymbolSizes most_of(const Recordings& recordings) {
  program::SymbolSizes most = recordings.sizes;
  for (size_t i = 1; i < recordings.signature.symbols.size(); ++i) {
    most[i] = std::max(most[i], recordings.twin_sizes[i]);
    for (const program::SymbolSizes& other : recordings.other_sizes) most[i] = std::max(most[i], other[i]);
  }
  return most;
}

// What is one number in all small recordings may be another at larger sizes, as length // 16 is, and what was left out may be called there: one at the example's
// sizes, and one at much larger ones, of inputs that are not too large to keep all that is computed of them.
void record_larger(const Forward& forward, const NamedTensors& example, Samples samples, Recordings& recordings) {
  constexpr int64_t kMostElements = 1 << 18, kMostOfLargest = 1 << 16;
  const Signature& signature = recordings.signature;
  const program::SymbolSizes most = most_of(recordings);
  // Whether the forward pass takes such sizes.
  const auto is_recorded = [&](const program::SymbolSizes& sizes, int64_t most_elements) {
    bool is_larger = false;
    for (size_t i = 1; i < signature.symbols.size(); ++i) is_larger = is_larger || sizes[i] > most[i];
    int64_t count = 0;
    for (const program::Port& port : signature.inputs) count += elements(port.type.shape, sizes);
    if (!is_larger || count > most_elements) return false;
    if (record_other(forward, example, sizes, samples, recordings)) return true;
    if (!recordings.beyond) return false;
    recordings.beyond.reset();  // the first pass of a size may fill a cache
    return record_other(forward, example, sizes, samples, recordings) || recordings.beyond;
  };
  program::SymbolSizes sizes = sizes_of(signature, example);
  sizes[0] = recordings.sizes[0];
  is_recorded(sizes, kMostElements);
  for (const int64_t times : {32, 16, 8, 4, 2}) {
    if (recordings.beyond) return;
    for (size_t i = 1; i < signature.symbols.size(); ++i)
      sizes[i] = std::min(times * most[i] + 1, std::max(signature.symbols[i].max, most[i]));
    if (is_recorded(sizes, kMostOfLargest)) return;
  }
}

Result<Recordings> record_above(const Forward& forward, const NamedTensors& example, const Signature& signature,
                                const program::SymbolSizes& least, Samples samples, bool apart = false) {
  Recordings recordings;
  recordings.signature = signature;
  BITLAB_TRY(const std::vector<program::SymbolSizes> all, recording_sizes(signature.symbols, least, apart));
  recordings.sizes = all[0], recordings.twin_sizes = all[1];
  const auto first_inputs = [&] { return inputs_at(signature, example, recordings.sizes, samples); };
  BITLAB_TRY(recordings.first, record(forward, first_inputs()));
  const NamedTensors other = with_other_floats(inputs_at(signature, example, recordings.twin_sizes, samples));
  BITLAB_TRY(recordings.twin, record(forward, other));
  // The first pass in eval may have filled a cache that later ones read, as of attention's biases.
  if (!same_operators(recordings.first, recordings.twin)) {
    BITLAB_TRY(recordings.first, record(forward, first_inputs()));
  }
  // Of a batch alone two tell all; a network may take no larger sizes.
  if (signature.symbols.size() > 1 && all.size() > 2) record_other(forward, example, all[2], samples, recordings);
  recordings.beyond.reset();
  if (signature.symbols.size() > 1) record_larger(forward, example, samples, recordings);
  return recordings;
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

Status record_largest(const Forward& forward, const NamedTensors& example, Recordings& recordings) {
  BITLAB_TRY(recordings.largest, record(forward, resized(recordings.signature, example, recordings.largest_sizes)));
  if (!same_operators(recordings.first, *recordings.largest)) add_idle_calls(recordings.first, *recordings.largest);
  return {};
}

bool record_other(const Forward& forward, const NamedTensors& example, const program::SymbolSizes& sizes, Samples samples,
                  Recordings& recordings) {
  try {
    Result<Recording> other = record(forward, inputs_at(recordings.signature, example, sizes, samples));
    if (!other.ok()) return false;
    if (!same_operators(recordings.first, *other)) add_idle_calls(recordings.first, *other);
    if (!same_operators(recordings.first, *other)) {
      recordings.beyond = other_calls(recordings, *other, sizes);
      return false;
    }
    recordings.others.push_back(*std::move(other));
    recordings.other_sizes.push_back(sizes);
    return true;
  } catch (const std::exception&) {  // of Python
    return false;
  }
}

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
