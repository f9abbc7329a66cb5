#include "bitlab/deploy/lowering.h"

#include <algorithm>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include "bitlab/deploy/lowering/lowerings.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::deploy {
namespace {

using program::Attribute;

constexpr float kMinusInfinity = -1e30F;  // what -inf becomes: a file holds finite numbers, and exp() of either is 0

const void* identity(const at::Tensor& tensor) { return tensor.unsafeGetTensorImpl(); }

template <class T>
std::vector<T> values_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<T>(), plain.const_data_ptr<T>() + plain.numel()};
}

using LoweringFunction = Status (*)(Lowering&, const Call&);

LoweringFunction find_function(std::string_view op) {
  static const std::unordered_map<std::string_view, LoweringFunction> functions{
#define BITLAB_LOWERING(name, function) {name, function},
#include "bitlab/deploy/lowering/lowerings.def"
#undef BITLAB_LOWERING
  };
  const auto found = functions.find(op);
  return found == functions.end() ? nullptr : found->second;
}

// Operators that look at an activation's shape alone.
bool reads_shapes(const Call& call) {
  constexpr std::string_view kNames[] = {"aten::empty_like", "aten::zeros_like", "aten::ones_like", "aten::full_like"};
  return std::find(std::begin(kNames), std::end(kNames), call.op) != std::end(kNames);
}

// Whether both recordings have the same operator as their call number i.
Status check_same_call(const RecordedPair& pair, size_t i) {
  const auto &a = pair.recording.calls, &b = pair.twin.calls;
  if (i < a.size() && i < b.size() && a[i].op == b[i].op) return {};
  return make_error(ErrorCode::kUnsupported,
                    "[capture] the same operators for every batch size, got {} for {} and {} for {}",
                    i < a.size() ? a[i].op : "none", pair.recording.input.size(0), i < b.size() ? b[i].op : "none",
                    pair.twin.input.size(0));
}

}  // namespace

std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module) {
  std::unordered_map<const void*, std::string> names;
  for (const auto& parameter : module.named_parameters()) names[parameter.value().unsafeGetTensorImpl()] = parameter.key();
  for (const auto& buffer : module.named_buffers()) names[buffer.value().unsafeGetTensorImpl()] = buffer.key();
  return names;
}

Result<RecordedPair> record_pair(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
                                 const at::Tensor& input, const at::Tensor& twin_input, Keep keep) {
  RecordedPair pair;
  module.eval();
  BITLAB_TRY(pair.recording, record(forward, input, keep));
  BITLAB_TRY(pair.twin, record(forward, twin_input));
  return pair;
}

std::string describe(const c10::IValue& value) {
  if (value.isNone()) return "none";
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    return tensor.defined() ? fmt::format("{} {}", c10::toString(tensor.scalar_type()), show(tensor.sizes())) : "none";
  }
  return c10::str(value);
}

Result<ValueId> Lowering::activation(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  const auto found = value.isTensor() ? values_.find(identity(value.toTensor())) : values_.end();
  if (found == values_.end())
    return unsupported(call, "the input or a result of a captured operator as '" + argument + "'", describe(value));
  return found->second;
}

Result<ValueId> Lowering::operand(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  if (value.isScalar()) return constant(at::full({1}, value.toScalar(), at::kFloat));
  if (!value.isTensor()) return unsupported(call, "a tensor or a number as '" + argument + "'", describe(value));
  return operand(call, value.toTensor(), twin().argument(argument).toTensor());
}

Result<ValueId> Lowering::operand(const Call& call, const at::Tensor& tensor, const at::Tensor& twin_tensor) {
  const auto found = values_.find(identity(tensor));
  return found != values_.end() ? Result<ValueId>(found->second) : shared_constant(call, tensor, twin_tensor);
}

Result<ValueId> Lowering::floats(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  if (value.isNone() || !value.toTensor().defined()) return program::kNone;
  if (is_activation(value.toTensor())) return unsupported(call, "a constant as '" + argument + "'", "an activation");
  return shared_constant(call, value.toTensor(), twin().argument(argument).toTensor());
}

Result<ValueId> Lowering::shared_constant(const Call& call, const at::Tensor& tensor, const at::Tensor& twin_tensor) {
  if (tensor.scalar_type() != at::kFloat) return unsupported(call, "float32 constants", c10::toString(tensor.scalar_type()));
  const at::Tensor shaped = tensor.dim() == 0 ? tensor.reshape({1}) : tensor;
  if (tensor.sizes() == twin_tensor.sizes()) {
    if (!tensor.is_same(twin_tensor) && !at::equal(tensor, twin_tensor))
      return unsupported(
          call, "constants that do not depend on the batch",
          fmt::format("{} whose values differ between batches of {} and {}", describe(tensor), batch_, twin_batch_));
    return constant(tensor, shaped);
  }
  const at::Tensor row = tensor.narrow(0, 0, 1);
  const bool repeats = tensor.dim() == twin_tensor.dim() && tensor.size(0) == batch_ && twin_tensor.size(0) == twin_batch_ &&
                       at::equal(row.expand_as(tensor), tensor);
  if (!repeats)
    return unsupported(call, "constants that are the same for each sample",
                       show(tensor.sizes()) + " and " + show(twin_tensor.sizes()));
  return node(Op::expand, {constant(row)});
}

std::string Lowering::unique_name(const std::string& name) {
  std::string unique = name;
  for (int& index = names_taken_[name]; !taken_.insert(unique).second;) unique = fmt::format("{}_{}", name, ++index);
  return unique;
}

ValueId Lowering::constant(const at::Tensor& source, const at::Tensor& values) {
  const auto known = constants_.find(identity(source));
  if (known != constants_.end()) return known->second;
  const auto named = names_.find(identity(source));
  const at::Tensor finite = values.to(at::kFloat).clamp_min(kMinusInfinity);
  const ValueId id = builder_.floats(unique_name(named == names_.end() ? "constant" : named->second), finite.sizes().vec(),
                                     values_of<float>(finite));
  constants_[identity(source)] = id;
  kept_.push_back(source);
  return id;
}

Result<ValueId> Lowering::ternary(const Call& call, std::vector<int64_t> shape) {
  const at::Tensor &codes = call.argument("codes").toTensor(), &scale = call.argument("scale").toTensor();
  const auto known = constants_.find(identity(codes));
  if (known != constants_.end()) return known->second;
  program::TernaryScales scales;
  scales.group = call.argument("group").toInt();
  if (scales.group != 0) {
    for (const at::Half half : values_of<at::Half>(scale)) scales.group_scale.push_back(half.x);
  } else {
    scales.scale = values_of<float>(scale);
    if (given(call, "scale_neg")) scales.scale_neg = values_of<float>(call.argument("scale_neg").toTensor());
  }
  const auto sources = ops::sources_of(codes);
  const auto named = names_.find(identity(sources.empty() ? codes : sources[0]));
  const std::string weight_name = unique_name(named == names_.end() ? "codes" : named->second);
  const ValueId id = codes.scalar_type() == at::kChar
                         ? builder_.int8(weight_name, std::move(shape), values_of<int8_t>(codes), std::move(scales.scale))
                         : builder_.ternary(weight_name, std::move(shape), values_of<uint8_t>(codes), std::move(scales));
  constants_[identity(codes)] = id;
  return id;
}

Result<ValueId> Lowering::node(Op op, std::vector<ValueId> inputs, std::map<std::string, Attribute> attributes) {
  const int index = counts_[std::string(name(op))]++;
  std::string node_name = index == 0 ? std::string(name(op)) : fmt::format("{}_{}", name(op), index);
  constexpr std::string_view kWeight = ".weight";
  const auto weight = inputs.size() > 1 && inputs[1] != program::kNone ? builder_.peek().value(inputs[1]) : program::Value{};
  if (weight.kind == program::ValueKind::kConstant && weight.name.ends_with(kWeight))
    node_name = weight.name.substr(0, weight.name.size() - kWeight.size());
  BITLAB_TRY(const ValueId id, builder_.node(op, unique_name(node_name), std::move(inputs), std::move(attributes)));
  results_.emplace_back();
  return id;
}

Status Lowering::finish(const Call& call, ValueId value, const at::Tensor& output) {
  if (call.is_in_place()) BITLAB_RETURN_IF_ERROR(check_unaliased(call));
  const std::vector<int64_t> expected = at_batch(shape(value), batch_);
  if (output.sizes() != at::IntArrayRef(expected))
    return unsupported(call, "a result of shape " + show(expected), show(output.sizes()));
  values_[identity(output)] = value;
  return {};
}

Status Lowering::lower_to(const Call& call, Op op, std::vector<ValueId> inputs,
                          std::map<std::string, Attribute> attributes) {
  BITLAB_TRY(const ValueId id, node(op, std::move(inputs), std::move(attributes)));
  results_.back() = call.copy;
  return finish(call, id);
}

Result<ValueId> Lowering::reshape(ValueId x, const program::Shape& target) {
  if (shape(x) == target) return x;
  Sizes sizes;
  for (const program::Dim& dim : target) sizes.push_back(dim.symbolic ? -dim.size : dim.size);
  return node(Op::reshape, {x}, {{"shape", sizes}});
}

Result<program::Shape> Lowering::shape_of(const Call& call, const at::Tensor& output, const at::Tensor& twin_output) const {
  program::Shape shape;
  for (int64_t i = 0; i < output.dim(); ++i) {
    const int64_t size = output.size(i), other = i < twin_output.dim() ? twin_output.size(i) : 0;
    const bool symbolic = size != other;
    if (symbolic && (size % batch_ != 0 || size / batch_ * twin_batch_ != other))
      return unsupported(call, "sizes that are fixed or multiples of the batch",
                         show(output.sizes()) + " and " + show(twin_output.sizes()));
    shape.push_back({symbolic ? size / batch_ : size, symbolic});
  }
  return shape;
}

void Lowering::derive(const at::Tensor& tensor, const at::Tensor& source) {
  const auto found = names_.find(identity(source));
  if (found != names_.end()) names_.try_emplace(identity(tensor), found->second);
}

void Lowering::remember_transpose(const at::Tensor& tensor, const at::Tensor& source) {
  transposes_[identity(tensor)] = source;
}

at::Tensor Lowering::transposed(const at::Tensor& tensor) const {
  const auto found = transposes_.find(identity(tensor));
  return found == transposes_.end() ? at::Tensor() : found->second;
}

// An in-place operator changes every tensor that shares the memory, which a program of values cannot say.
Status Lowering::check_unaliased(const Call& call) const {
  const at::Tensor& changed = call.arguments.at(0).value.toTensor();
  const auto sharing = std::count_if(values_.begin(), values_.end(), [&](const auto& entry) {
    const auto* other = static_cast<const at::TensorImpl*>(entry.first);
    return other != identity(changed) && other->storage().is_alias_of(changed.storage());
  });
  if (sharing > 0) return unsupported(call, "an in-place operator on memory of its own", "memory that other values share");
  return {};
}

bool Lowering::reads_activations(const Call& call) const {
  if (reads_shapes(call)) return false;
  bool reads = false;
  for (const Argument& argument : call.arguments)
    for_each_tensor(argument.value, [&](const at::Tensor& tensor) { reads = reads || is_activation(tensor); });
  return reads;
}

Status Lowering::lower_call(const Call& call) {
  if (!reads_activations(call)) {
    if (call.op == "aten::t") remember_transpose(output_of(call), call.arguments.at(0).value.toTensor());
    const bool from_tensor = !call.arguments.empty() && call.arguments[0].value.isTensor();
    for (const c10::IValue& output : call.outputs)
      if (from_tensor && output.isTensor()) derive(output.toTensor(), call.arguments[0].value.toTensor());
    return {};
  }
  const LoweringFunction function = find_function(call.op);
  if (function == nullptr) return unsupported(call, "an operator that can be deployed", call.op);
  try {
    // A constant that is changed in place enters as it was.
    if (!call.before.defined() || is_activation(call.arguments.at(0).value.toTensor())) return function(*this, call);
    Call unchanged = call, twin = *twin_;
    unchanged.arguments[0].value = call.before;
    twin.arguments[0].value = twin.before;
    twin_ = &twin;
    return function(*this, unchanged);
  } catch (const c10::Error& error) {
    return unsupported(call, "arguments of the usual types", error.what_without_backtrace());
  }
}

Result<program::Program> Lowering::lower(const RecordedPair& pair, std::map<std::string, std::string> metadata) {
  const at::Tensor& input = pair.recording.input;
  batch_ = input.size(0), twin_batch_ = pair.twin.input.size(0);
  program::Shape shape{program::kBatch};
  for (int64_t i = 1; i < input.dim(); ++i) shape.push_back({input.size(i), false});
  values_[identity(input)] =
      builder_.input(unique_name("input"), std::move(shape),
                     input.scalar_type() == at::kLong ? program::DType::kInt64 : program::DType::kFloat32);
  const std::vector<bool> live = live_calls(pair.recording);
  // Call by call, so that an operator which cannot be lowered is named before what it does to the calls behind it.
  for (size_t i = 0; i < std::max(pair.recording.calls.size(), pair.twin.calls.size()); ++i) {
    BITLAB_RETURN_IF_ERROR(check_same_call(pair, i));
    if (!live[i]) continue;
    twin_ = &pair.twin.calls[i];
    BITLAB_RETURN_IF_ERROR(lower_call(pair.recording.calls[i]));
  }
  const auto output = values_.find(identity(pair.recording.output));
  if (output == values_.end())
    return make_error(ErrorCode::kUnsupported, "[capture] an output that a captured operator made, got {}",
                      describe(pair.recording.output));
  for (auto& [key, text] : metadata) builder_.metadata(key, std::move(text));
  return builder_.finish({output->second});
}

}  // namespace bitlab::deploy
