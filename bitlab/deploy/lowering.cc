#include "bitlab/deploy/lowering.h"

#include <algorithm>

#include "bitlab/ternary/codes.h"

namespace bitlab::deploy {
namespace {

using program::Attribute;
using program::Op;
using program::Pair;
using program::ValueId;

const void* identity(const at::Tensor& tensor) { return tensor.unsafeGetTensorImpl(); }

Error unsupported(const Call& call, std::string_view expectation, std::string_view found) {
  return make_error(ErrorCode::kUnsupported, "[capture] {}, got {} (operator={})", expectation, found, call.op);
}

std::string show(at::IntArrayRef sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

// An int[2] argument; LibTorch lets one number stand for both, and no number for `fallback`.
Pair pair_of(const Call& call, const std::string& argument, Pair fallback = {1, 1}) {
  const auto numbers = call.argument(argument).toIntVector();
  if (numbers.empty()) return fallback;
  return {numbers[0], numbers.size() > 1 ? numbers[1] : numbers[0]};
}

const at::Tensor& output_of(const Call& call) { return call.outputs.at(0).toTensor(); }

template <class T>
std::vector<T> values_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<T>(), plain.const_data_ptr<T>() + plain.numel()};
}

std::map<std::string, Attribute> window(const Call& call) {
  return {{"stride", pair_of(call, "stride")},
          {"padding", pair_of(call, "padding", {0, 0})},
          {"dilation", pair_of(call, "dilation")}};
}

// --- the functions of lowering.def

Status lower_identity(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, call.arguments.at(0).name));
  lowering.bind(output_of(call), x);
  return {};
}

Status lower_ternary_pack(Lowering& lowering, const Call& call) {
  for (const c10::IValue& output : call.outputs) lowering.derive(output.toTensor(), call.argument("weight").toTensor());
  return {};
}

Status lower_ternary_linear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  const int64_t depth = call.argument("x").toTensor().size(-1), rows = call.argument("codes").toTensor().size(0);
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, {rows, depth}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  return lowering.node(call, Op::ternary_linear, {x, weight, bias, act_scale},
                       {{"activation", call.argument("activation").toStringRef()}});
}

Status lower_ternary_conv(Lowering& lowering, const Call& call) {
  if (call.argument("kernel_size").toIntVector().size() != 2 || call.argument("transposed").toBool() ||
      call.argument("groups").toInt() != 1)
    return unsupported(call, "a two-dimensional convolution with one group, not transposed", "another");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  const Pair kernel = pair_of(call, "kernel_size");
  const int64_t channels = call.argument("x").toTensor().size(-3), rows = call.argument("codes").toTensor().size(0);
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, {rows, kernel[0], kernel[1], channels}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  auto attributes = window(call);
  attributes["activation"] = call.argument("activation").toStringRef();
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  return lowering.node(call, Op::ternary_conv2d, {x, weight, bias, act_scale}, std::move(attributes));
}

Status lower_linear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  BITLAB_TRY(const ValueId weight, lowering.floats(call, "weight"));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  return lowering.node(call, Op::linear, {x, weight, bias});
}

// torch::nn::Linear is addmm(bias, x, weight.t()).
Status lower_t(Lowering& lowering, const Call& call) {
  lowering.remember_transpose(output_of(call), call.arguments.at(0).value.toTensor());
  return {};
}

Status lower_addmm(Lowering& lowering, const Call& call) {
  const at::Tensor weight = lowering.transposed(call.argument("mat2").toTensor());
  if (!weight.defined() || call.argument("beta").toScalar().toDouble() != 1 ||
      call.argument("alpha").toScalar().toDouble() != 1)
    return unsupported(call, "addmm with a transposed weight, as in torch::nn::Linear", "another");
  Call linear{call.op,
              {{"input", call.argument("mat1")}, {"weight", weight}, {"bias", call.argument("self")}},
              call.outputs,
              call.copy};
  return lower_linear(lowering, linear);
}

Status lower_conv2d(Lowering& lowering, const Call& call) {
  if (call.argument("groups").toInt() != 1)
    return unsupported(call, "one group", std::to_string(call.argument("groups").toInt()));
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  BITLAB_TRY(const ValueId weight, lowering.floats(call, "weight"));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  return lowering.node(call, Op::conv2d, {x, weight, bias}, window(call));
}

Status check_plain_pool(const Call& call) {
  if (call.argument("ceil_mode").toBool()) return unsupported(call, "ceil_mode false", "true");
  return {};
}

Status lower_max_pool2d(Lowering& lowering, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_plain_pool(call));
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  auto attributes = window(call);
  attributes["kernel_size"] = pair_of(call, "kernel_size");
  attributes["stride"] = pair_of(call, "stride", pair_of(call, "kernel_size"));
  return lowering.node(call, Op::max_pool2d, {x}, std::move(attributes));
}

Status lower_avg_pool2d(Lowering& lowering, const Call& call) {
  BITLAB_RETURN_IF_ERROR(check_plain_pool(call));
  const Pair kernel = pair_of(call, "kernel_size"), padding = pair_of(call, "padding", {0, 0});
  const bool padded = padding != Pair{0, 0};
  if (!call.argument("divisor_override").isNone() || (padded && !call.argument("count_include_pad").toBool()))
    return unsupported(call, "an average over the whole window", "another divisor");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.node(call, Op::avg_pool2d, {x},
                       {{"kernel_size", kernel}, {"stride", pair_of(call, "stride", kernel)}, {"padding", padding}});
}

Status lower_adaptive_avg_pool2d(Lowering& lowering, const Call& call) {
  const at::Tensor& x = call.argument("self").toTensor();
  const Pair size = pair_of(call, "output_size");
  if (x.dim() != 4 || size != Pair{1, 1}) return unsupported(call, "the average of a whole image", "a grid of averages");
  BITLAB_TRY(const ValueId input, lowering.activation(call, "self"));
  const Pair kernel{x.size(2), x.size(3)};
  return lowering.node(call, Op::avg_pool2d, {input},
                       {{"kernel_size", kernel}, {"stride", kernel}, {"padding", Pair{0, 0}}});
}

Status lower_relu(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  return lowering.node(call, Op::relu, {x});
}

Status lower_add(Lowering& lowering, const Call& call) {
  if (call.argument("alpha").toScalar().toDouble() != 1) return unsupported(call, "alpha 1", "another");
  BITLAB_TRY(const ValueId a, lowering.activation(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.activation(call, "other"));
  return lowering.node(call, Op::add, {a, b});
}

Status flatten(Lowering& lowering, const Call& call, int64_t first, int64_t last) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  if (first == last) {
    lowering.bind(output_of(call), x);
    return {};
  }
  return lowering.node(call, Op::flatten, {x}, {{"start_dim", first}, {"end_dim", last}});
}

Status lower_flatten(Lowering& lowering, const Call& call) {
  const int64_t rank = call.argument("self").toTensor().dim();
  const auto wrap = [rank](int64_t dim) { return dim < 0 ? dim + rank : dim; };
  return flatten(lowering, call, wrap(call.argument("start_dim").toInt()), wrap(call.argument("end_dim").toInt()));
}

// view and reshape are understood where they flatten all but the batch.
Status lower_view(Lowering& lowering, const Call& call) {
  const at::Tensor &x = call.argument("self").toTensor(), &y = output_of(call);
  if (x.sizes() == y.sizes()) return lower_identity(lowering, call);
  if (y.dim() != 2 || y.size(0) != x.size(0))
    return unsupported(call, "a view that flattens all but the batch", show(x.sizes()) + " to " + show(y.sizes()));
  return flatten(lowering, call, 1, x.dim() - 1);
}

Status lower_softmax(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = call.argument("dim").toInt(), rank = call.argument("self").toTensor().dim();
  return lowering.node(call, Op::softmax, {x}, {{"dim", dim < 0 ? dim + rank : dim}});
}

using LoweringFunction = Status (*)(Lowering&, const Call&);

LoweringFunction find_function(std::string_view op) {
  static const std::unordered_map<std::string_view, LoweringFunction> functions{
#define BITLAB_LOWERING(name, function) {name, function},
#include "bitlab/deploy/lowering.def"
#undef BITLAB_LOWERING
  };
  const auto found = functions.find(op);
  return found == functions.end() ? nullptr : found->second;
}

bool is_in_place(const Call& call) { return call.op.substr(0, call.op.find('.')).ends_with('_'); }

}  // namespace

std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module) {
  std::unordered_map<const void*, std::string> names;
  for (const auto& parameter : module.named_parameters()) names[parameter.value().unsafeGetTensorImpl()] = parameter.key();
  for (const auto& buffer : module.named_buffers()) names[buffer.value().unsafeGetTensorImpl()] = buffer.key();
  return names;
}

Result<ValueId> Lowering::activation(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  const auto found = value.isTensor() ? values_.find(identity(value.toTensor())) : values_.end();
  if (found == values_.end())
    return unsupported(call, "the input or a result of a captured operator as '" + argument + "'", "another value");
  return found->second;
}

std::string Lowering::constant_name(const at::Tensor& tensor) const {
  const auto found = names_.find(identity(tensor));
  return found == names_.end() ? fmt::format("constant{}", constants_.size()) : found->second;
}

Result<ValueId> Lowering::floats(const Call& call, const std::string& argument) {
  if (call.argument(argument).isNone()) return program::kNone;
  const at::Tensor& tensor = call.argument(argument).toTensor();
  if (!tensor.defined()) return program::kNone;
  if (tensor.scalar_type() != at::kFloat)
    return unsupported(call, "float32 parameters", c10::toString(tensor.scalar_type()));
  const auto known = constants_.find(identity(tensor));
  if (known != constants_.end()) return known->second;
  const at::Tensor ordered = tensor.dim() == 4 ? tensor.permute({0, 2, 3, 1}) : tensor;
  const ValueId id = builder_.floats(constant_name(tensor), ordered.sizes().vec(), values_of<float>(ordered));
  constants_[identity(tensor)] = id;
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
    if (!call.argument("scale_neg").isNone()) scales.scale_neg = values_of<float>(call.argument("scale_neg").toTensor());
  }
  const ValueId id = builder_.ternary(constant_name(codes), std::move(shape), values_of<uint8_t>(codes), std::move(scales));
  constants_[identity(codes)] = id;
  return id;
}

Status Lowering::node(const Call& call, Op op, std::vector<ValueId> inputs, std::map<std::string, Attribute> attributes) {
  if (is_in_place(call)) BITLAB_RETURN_IF_ERROR(check_unaliased(call));
  const int index = counts_[std::string(name(op))]++;
  std::string node_name = index == 0 ? std::string(name(op)) : fmt::format("{}_{}", name(op), index);
  // A layer is called by its weight's name: "conv1.weight" gives "conv1".
  if (inputs.size() > 1 && builder_.peek().value(inputs[1]).kind == program::ValueKind::kConstant) {
    const std::string& weight = builder_.peek().value(inputs[1]).name;
    if (weight.ends_with(".weight")) node_name = weight.substr(0, weight.size() - std::string_view(".weight").size());
  }
  const auto& values = builder_.peek().values;
  const bool taken = std::any_of(values.begin(), values.end(), [&](const program::Value& v) { return v.name == node_name; });
  if (taken) node_name += fmt::format("_{}", values.size());
  BITLAB_TRY(const ValueId id, builder_.node(op, std::move(node_name), std::move(inputs), std::move(attributes)));
  const at::Tensor& output = output_of(call);
  const std::vector<int64_t> expected = at_batch(builder_.peek().value(id).shape, batch_);
  if (output.sizes() != at::IntArrayRef(expected))
    return unsupported(call, "a result of shape " + show(expected), show(output.sizes()));
  bind(output, id);
  results_.push_back(call.copy);
  return {};
}

void Lowering::bind(const at::Tensor& tensor, ValueId value) { values_[identity(tensor)] = value; }

void Lowering::derive(const at::Tensor& tensor, const at::Tensor& source) {
  const auto found = names_.find(identity(source));
  if (found != names_.end()) names_[identity(tensor)] = found->second;
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

Status Lowering::lower_call(const Call& call) {
  const LoweringFunction function = find_function(call.op);
  if (function == nullptr) return unsupported(call, "an operator of deploy/lowering.def", "another");
  try {
    return function(*this, call);
  } catch (const c10::Error& error) {
    return unsupported(call, "arguments of the usual types", error.what_without_backtrace());
  }
}

Result<program::Program> Lowering::lower(const Recording& recording, int64_t batch,
                                         std::map<std::string, std::string> metadata) {
  batch_ = batch;
  program::Shape shape{program::kBatch};
  for (int64_t i = 1; i < recording.input.dim(); ++i) shape.push_back({recording.input.size(i), false});
  bind(recording.input, builder_.input("input", std::move(shape)));
  for (const Call& call : recording.calls) BITLAB_RETURN_IF_ERROR(lower_call(call));
  const auto output = values_.find(identity(recording.output));
  if (output == values_.end())
    return make_error(ErrorCode::kUnsupported, "[capture] an output that a captured operator made, got another tensor");
  for (auto& [key, text] : metadata) builder_.metadata(key, std::move(text));
  return builder_.finish({output->second});
}

}  // namespace bitlab::deploy
