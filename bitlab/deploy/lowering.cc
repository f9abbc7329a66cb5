#include "bitlab/deploy/internal/lowering.h"

#include <algorithm>
#include <iterator>
#include <variant>

#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "bitlab/deploy/internal/refusals.h"
#include "bitlab/deploy/lowering/internal/lowerings.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::deploy {
namespace {

// The tensor that an identity stands for, which lives.
at::Tensor tensor_of(const at::TensorImpl* impl) {
  return at::Tensor(c10::intrusive_ptr<at::TensorImpl>::reclaim_copy(const_cast<at::TensorImpl*>(impl)));
}

// An operator that changes how a tensor lies, and none of its values.
bool is_reshaping_in_place(const Call& call) {
  constexpr std::string_view kNames[] = {"aten::transpose_", "aten::t_",          "aten::squeeze_", "aten::unsqueeze_",
                                         "aten::swapaxes_",  "aten::as_strided_", "aten::swapdims_"};
  return std::find(std::begin(kNames), std::end(kNames), call.function()) != std::end(kNames);
}

// Whether two tensors of one storage have an element in common.
bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto elements = static_cast<int64_t>(a.storage().nbytes() / a.element_size());
  if (a.numel() == 0 || b.numel() == 0) return false;
  if (a.element_size() != b.element_size()) return true;
  const at::Tensor touched = at::zeros({elements}, at::kByte);
  touched.as_strided(a.sizes(), a.strides(), a.storage_offset()).fill_(1);
  return touched.as_strided(b.sizes(), b.strides(), b.storage_offset()).any().item<bool>();
}

// Whether all that a call returns are tensors that it was given.
bool returns_arguments(const Call& call) {
  std::unordered_set<const void*> given;
  for (const Argument& argument : call.arguments)
    for_each_tensor(argument.value, [&](const at::Tensor& tensor) { given.insert(identity(tensor)); });
  bool all = !call.is_in_place() && !call.is_into_given();
  for (const c10::IValue& output : call.outputs) {
    all = all && (output.isTensor() || output.isTensorList());
    for_each_tensor(output, [&](const at::Tensor& tensor) { all = all && given.contains(identity(tensor)); });
  }
  return all;
}

// Whether a call looks at a float64 input in another way: rounded, it is one of float32.
bool is_view_of_double(const Call& call) {
  return find_view_function(call.op) != nullptr && !call.arguments.empty() && call.arguments[0].value.isTensor() &&
         call.arguments[0].value.toTensor().scalar_type() == at::kDouble;
}

// Whether a call reads float64 values as no view does, nor what rounds them to those that programs compute with.
bool computes_with_double(const Call& call, const std::function<bool(const at::Tensor&)>& is_activation) {
  const bool reads = reads_any(call, [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.scalar_type() == at::kDouble && is_activation(tensor);
  });
  const bool is_float = call.outputs.size() == 1 && call.outputs[0].isTensor() && output_of(call).is_floating_point();
  const bool is_rounding =
      is_float && (call.op.starts_with("aten::to") || call.op == "aten::_to_copy" || call.op == "aten::copy_");
  return reads && !is_view_of_double(call) && !is_rounding && !call.op.starts_with("aten::result_type");
}

// Whether a call writes values by a mask, into another tensor than these.
bool puts_values(const Call& call) { return call.op.starts_with("aten::index_put"); }

// Whether a call takes a part without elements, as what rotary positions leave out of a head, or moves such, as what a beam has found before its first step.
bool makes_nothing(const Call& call) {
  if (call.outputs.size() != 1 || !call.outputs[0].isTensor() || !output_of(call).defined() || output_of(call).numel() != 0)
    return false;
  const auto is_empty = [](const at::Tensor& tensor) { return tensor.defined() && tensor.numel() == 0; };
  return find_view_function(call.op) != nullptr || call.op == "aten::expand" || reads_any(call, is_empty);
}

// The layer that a weight's name is in: "fc" of "fc.weight", "lstm.hh_l0" of "lstm.weight_hh_l0".
std::optional<std::string> layer_of(const std::string& weight) {
  constexpr std::string_view kWeight = ".weight";
  const size_t dot = weight.rfind('.');
  if (dot == std::string::npos || weight.compare(dot, kWeight.size(), kWeight) != 0) return std::nullopt;
  const std::string rest = weight.substr(dot + kWeight.size());
  if (rest.empty()) return weight.substr(0, dot);
  return rest.starts_with("_") ? std::optional(weight.substr(0, dot + 1) + rest.substr(1)) : std::nullopt;
}

}  // namespace

LoweringFunction find_lowering(std::string_view op) {
  static const std::unordered_map<std::string_view, LoweringFunction> functions{
#define BITLAB_LOWERING(name, function) {name, function},
#include "bitlab/deploy/lowering/lowerings.def"
#undef BITLAB_LOWERING
  };
  constexpr std::string_view kOut = ".out";  // the same into memory that is given
  auto found = functions.find(op);
  if (found == functions.end() && op.ends_with(kOut)) {
    op.remove_suffix(kOut.size());
    found = functions.find(op);
    if (found == functions.end()) found = functions.find(std::string(op) + ".Tensor");
  }
  return found == functions.end() ? nullptr : found->second;
}

bool has_lowering(const Call& call) { return find_lowering(call.op) != nullptr && is_recurrent_node(call); }

std::string describe(const c10::IValue& value) {
  if (value.isNone()) return "none";
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    return tensor.defined() ? fmt::format("{} {}", c10::toString(tensor.scalar_type()), show(tensor.sizes())) : "none";
  }
  if (!value.isList()) return c10::str(value);
  std::string items;
  for (const c10::IValue& item : value.toListRef()) items += (items.empty() ? "" : ", ") + describe(item);
  return "[" + items + "]";
}

void Lowering::move_to(size_t call) {
  index_ = call;
  twin_ = &recordings_->twin.calls[call];
  others_.clear();
  for (const Recording& other : recordings_->others) others_.push_back(&other.calls[call]);
}

template <class Function>
auto Lowering::within(size_t call, Function function) {
  const size_t index = index_, nodes = calls_.size();
  const Call* twin = twin_;
  const std::vector<const Call*> others = others_;
  move_to(call);
  auto result = function();
  index_ = index;
  twin_ = twin, others_ = others;
  std::fill(calls_.begin() + static_cast<std::ptrdiff_t>(nodes), calls_.end(), std::nullopt);
  return result;
}

// The value of a tensor behind a write into a view of it: what it was with the view's new value in it. Either may be such a value itself.
class Lowering::Written {
 public:
  // What a tensor was or is: a value, one behind a write, or what its memory held before the call under way.
  using State = std::variant<ValueId, std::shared_ptr<Written>, size_t>;

  Written(Lowering& lowering, View view, State base, State part)
      : lowering_(lowering), view_(std::move(view)), base_(std::move(base)), part_(std::move(part)) {}

  Result<ValueId> value() {
    if (value_ != program::kNone) return value_;
    BITLAB_TRY(const ValueId part, value_of(part_));
    BITLAB_TRY(const ValueId base, value_of(base_));
    const Call& call = lowering_.recordings_->first.calls[view_.call];
    const ViewFunction put_back = find_view_function(call.op);
    if (put_back == nullptr) return unsupported(call, "a view whose memory can be written", call.op);
    BITLAB_TRY(value_, lowering_.within(view_.call, [&] { return put_back(lowering_, call, view_.tensor, base, part); }));
    return value_;
  }

 private:
  Result<ValueId> value_of(const State& state) {
    if (const auto* written = std::get_if<std::shared_ptr<Written>>(&state)) return (*written)->value();
    if (const auto* value = std::get_if<ValueId>(&state)) return *value;
    const size_t write = std::get<size_t>(state);
    const Recordings& all = *lowering_.recordings_;
    return lowering_.within(write, [&] {
      return lowering_.constant_of(all.first.calls[write], [&](const Call& c) {
        const auto holds = [&](const Recording& recording) { return &c == &recording.calls[write]; };
        const auto other = std::find_if(all.others.begin(), all.others.end(), holds);
        const Recording& recording = holds(all.first)            ? all.first
                                     : holds(all.twin)           ? all.twin
                                     : other != all.others.end() ? *other
                                                                 : *all.largest;
        const at::Tensor base = recording.calls[view_.call].arguments.at(0).value.toTensor();
        return c.memory.as_strided(base.sizes(), base.strides(), base.storage_offset());
      });
    });
  }

  Lowering& lowering_;
  View view_;
  State base_, part_;
  ValueId value_ = program::kNone;
};

Result<ValueId> Lowering::activation(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  if (value.isTensor() && is_activation(value.toTensor())) return value_of(call, value.toTensor());
  if (value.isTensor() && value.toTensor().defined() && !value.toTensor().is_complex())
    return constant_of(call, [&](const Call& c) { return c.argument(argument).toTensor(); });
  return unsupported(call, "the input or a result of a captured operator as '" + argument + "'", describe(value));
}

Result<ValueId> Lowering::value_of(const Call& call, const at::Tensor& tensor) {
  const void* key = identity(tensor);
  asked_.insert(key);
  if (const auto found = values_.find(key); found != values_.end()) return found->second;
  if (const auto found = written_.find(key); found != written_.end()) {
    const std::shared_ptr<Written> written = found->second;
    BITLAB_TRY(const ValueId value, written->value());
    written_.erase(key);
    return values_[key] = value;
  }
  if (const auto found = views_.find(key); found != views_.end()) {  // of memory that was written since: viewed again
    const View view = found->second;
    BITLAB_RETURN_IF_ERROR(value_of(call, view.base));
    const Call& made_by = recordings_->first.calls[view.call];
    BITLAB_RETURN_IF_ERROR(within(view.call, [&] { return find_lowering(made_by.op)(*this, made_by); }));
    return values_.at(key);
  }
  if (rows_.contains(key)) return unsupported(call, "rows of all samples to index one tensor by", describe(tensor));
  return unsupported(call, "a value that was not changed in place as a part of another, and no index of a max pool",
                     describe(tensor));
}

// A number, or a tensor without dimensions that holds one and is not computed, as it is in each recording.
Result<std::optional<ValueId>> Lowering::sized_number(const Call& call, const std::string& argument, at::ScalarType type) {
  const c10::IValue& value = call.argument(argument);
  const bool is_tensor = value.isTensor() && value.toTensor().defined() && value.toTensor().dim() == 0 &&
                         !is_activation(value.toTensor()) && !value.toTensor().is_complex();
  const bool is_exact =
      !is_tensor || value.toTensor().scalar_type() == at::kDouble || value.toTensor().scalar_type() == at::kLong;
  if ((!is_tensor && !value.isScalar()) || !is_exact || (value.isScalar() && value.toScalar().isComplex()))
    return std::optional<ValueId>();
  const auto get = [&](const Call& c) {
    const c10::IValue& number = c.argument(argument);
    return number.isScalar() ? number.toScalar().toDouble() : number.toTensor().to(at::kDouble).item<double>();
  };
  return number_of_sizes(call, get, type, Precision::kDouble);
}

Result<ValueId> Lowering::operand(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  BITLAB_TRY(const auto sized, sized_number(call, argument, at::kFloat));
  if (sized) return *sized;
  if (value.isScalar()) return number(value.toScalar(), at::kFloat);
  if (!value.isTensor()) return unsupported(call, "a tensor or a number as '" + argument + "'", describe(value));
  if (is_activation(value.toTensor())) return activation(call, argument);
  // A number of Python is a tensor without dimensions, of double or int64, which LibTorch takes in the type of the other operand.
  return constant_of(call, [&](const Call& c) {
    const at::Tensor& tensor = c.argument(argument).toTensor();
    return tensor.dim() == 0 && tensor.scalar_type() != at::kBool ? tensor.to(at::kFloat) : tensor;
  });
}

Result<ValueId> Lowering::operand_as(const Call& call, const std::string& argument, at::ScalarType of_result) {
  const at::ScalarType type = computed_as(of_result);
  const c10::IValue& value = call.argument(argument);
  BITLAB_TRY(const auto sized, sized_number(call, argument, type));
  if (sized) return *sized;
  if (value.isScalar()) return number(value.toScalar(), type);
  if (!value.isTensor()) return unsupported(call, "a tensor or a number as '" + argument + "'", describe(value));
  if (!is_activation(value.toTensor()))
    return constant_of(call, [&](const Call& c) { return c.argument(argument).toTensor().to(type); });
  BITLAB_TRY(const ValueId x, activation(call, argument));
  return cast(x, type);
}

Result<ValueId> Lowering::cast(ValueId x, at::ScalarType wanted) {
  const at::ScalarType type = computed_as(wanted);
  if (scalar_type(dtype(x)) == type) return x;
  return node(Op::cast, {x}, {{"dtype", std::string(name(dtype_of(type)))}});
}

Result<ValueId> Lowering::operand(const Call& call, const std::string& list, size_t place) {
  const auto get = [&](const Call& c) { return c.argument(list).toTensorVector().at(place); };
  const at::Tensor tensor = get(call);
  return is_activation(tensor) ? value_of(call, tensor) : constant_of(call, get);
}

std::string Lowering::unique_name(const std::string& name) {
  std::string unique = name;
  for (int& index = names_taken_[name]; !taken_.insert(unique).second;) unique = fmt::format("{}_{}", name, ++index);
  return unique;
}

Result<std::vector<ValueId>> Lowering::nodes(Op op, std::vector<ValueId> inputs, program::Attributes attributes) {
  const auto is_constant = [&](ValueId id) {
    return id == program::kNone || builder_.peek().value(id).kind == program::ValueKind::kConstant;
  };
  const bool are_constants = inputs.size() > 1 && std::all_of(inputs.begin(), inputs.end(), is_constant);
  for (size_t i = 0; i < inputs.size(); ++i) {  // a constant where an activation is taken becomes one
    using program::InputKind;
    const InputKind kind = program::schema(op).input(i).kind;
    const bool is_taken = kind == InputKind::kActivation || kind == InputKind::kIndex ||
                          (are_constants && i == 0 && (kind == InputKind::kAny || kind == InputKind::kFloat));
    if (!is_taken || inputs[i] == program::kNone || !is_constant(inputs[i])) continue;
    BITLAB_TRY(inputs[i], node(Op::reshape, {inputs[i]}, {{"shape", shape(inputs[i])}}));
  }
  const int index = counts_[std::string(name(op))]++;
  std::string node_name = index == 0 ? std::string(name(op)) : fmt::format("{}_{}", name(op), index);
  const auto weight = inputs.size() > 1 && inputs[1] != program::kNone ? builder_.peek().value(inputs[1]) : program::Value{};
  if (weight.kind == program::ValueKind::kConstant) node_name = layer_of(weight.name).value_or(node_name);
  BITLAB_TRY(std::vector<ValueId> ids, builder_.nodes(op, unique_name(node_name), std::move(inputs), std::move(attributes)));
  calls_.emplace_back();
  return ids;
}

Result<ValueId> Lowering::node(Op op, std::vector<ValueId> inputs, program::Attributes attributes) {
  BITLAB_TRY(const std::vector<ValueId> ids, nodes(op, std::move(inputs), std::move(attributes)));
  return ids.front();
}

Status Lowering::finish(const Call& call, ValueId value, const at::Tensor& output) {
  if (computed_as(output.scalar_type()) == at::kInt && dtype(value) == program::DType::kInt64) {
    BITLAB_TRY(value, cast(value, at::kInt));
  }
  if ((is_rounded(output.scalar_type()) && dtype(value) == program::DType::kFloat32) || is_narrow(output.scalar_type())) {
    BITLAB_TRY(value, rounded(value, output.scalar_type()));
  }
  BITLAB_TRY(value, with_ones_of(call, value, output));
  if (call.is_in_place() && !is_reshaping_in_place(call)) change_in_place(output, value);
  const std::vector<int64_t> expected = shape_at(shape(value), recordings_->sizes);
  std::vector<int64_t> found = call.shape_of(output).vec();
  if (output.is_complex()) found.push_back(2);  // as pairs
  if (found != expected) return unsupported(call, "a result of shape " + program::to_string(expected), deploy::show(found));
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    if (!call.outputs[i].isTensor() || !call.outputs[i].toTensor().is_same(output) || output.is_complex()) continue;
    for (size_t k = 0; k < others_.size(); ++k)
      if (const auto wanted = shape_at(shape(value), recordings_->other_sizes[k]); wanted != others_[k]->shapes.at(i))
        return unsupported(call, "a result of one form at all sizes that ranges let be, here " + program::to_string(wanted),
                           deploy::show(others_[k]->shapes[i]));
  }
  const at::ScalarType type = output.scalar_type() == at::kDouble ? at::kFloat : computed_as(output.scalar_type());
  if (type != scalar_type(dtype(value)) && output.scalar_type() != scalar_type(dtype(value)))
    return unsupported(call, fmt::format("a result of {}", name(dtype(value))), c10::toString(output.scalar_type()));
  values_[identity(output)] = value;
  lost_.erase(identity(output));
  written_.erase(identity(output));
  if (!computes_tables_) return {};
  const auto returned = recordings_->first.returned.find(identity(output));
  if (returned == recordings_->first.returned.end()) return {};
  for (const at::Tensor& tensor : returned->second) {
    values_[identity(tensor)] = value;
    lost_.erase(identity(tensor));
  }
  return {};
}

// A value that differs from an output of the call in sizes of one alone, in that output's shape: a number is [1] here and there [].
Result<ValueId> Lowering::with_ones_of(const Call& call, ValueId value, const at::Tensor& output) {
  const auto without_ones = [](std::vector<int64_t> sizes) {
    std::erase(sizes, 1);
    return sizes;
  };
  const std::vector<int64_t> now = shape_at(shape(value), recordings_->sizes), found = call.shape_of(output).vec();
  if (now == found || output.is_complex() || without_ones(now) != without_ones(found)) return value;
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    if (!call.outputs[i].isTensor() || !call.outputs[i].toTensor().is_same(output)) continue;
    BITLAB_TRY(const program::Shape wanted, shape_of(call, [&](const Call& c) { return c.shapes.at(i); }));
    return reshape(value, wanted);
  }
  return value;
}

// What an int32 value holds in fewer bits.
Result<ValueId> Lowering::cut(ValueId value, at::ScalarType type) {
  if (type == at::kByte) return node(Op::bitwise_and, {value, number(255, at::kInt)});
  const ValueId bits = number(type == at::kChar ? 24 : 16, at::kInt);
  BITLAB_TRY(value, node(Op::shift_left, {value, bits}));
  return node(Op::shift_right, {value, bits});
}

// What a value of fewer bits holds, as float32 or int32. What moves such values has no others.
Result<ValueId> Lowering::rounded(ValueId value, at::ScalarType type) {
  const auto holds = [&](ValueId id) {
    const auto found = rounded_.find(id);
    return found != rounded_.end() && found->second == type;
  };
  if (holds(value)) return value;
  const auto& all = builder_.peek().nodes;
  const auto maker = std::find_if(all.rbegin(), all.rend(), [&](const program::Node& node) {
    return std::find(node.outputs.begin(), node.outputs.end(), value) != node.outputs.end();
  });
  constexpr Op kMoves[] = {Op::reshape, Op::permute, Op::slice, Op::split, Op::expand, Op::flip, Op::cat};
  const bool is_moved = maker != all.rend() &&
                        std::find(std::begin(kMoves), std::end(kMoves), maker->op) != std::end(kMoves) &&
                        std::all_of(maker->inputs.begin(), maker->inputs.end(), holds);
  if (!is_moved && is_narrow(type)) {
    BITLAB_TRY(value, cut(value, type));
  } else if (!is_moved) {
    BITLAB_TRY(value, node(Op::cast, {value}, {{"dtype", std::string(name(dtype_of(type)))}}));
    BITLAB_TRY(value, node(Op::cast, {value}, {{"dtype", std::string("float32")}}));
  }
  rounded_[value] = type;
  return value;
}

bool Lowering::is_read_by(const Call& call, std::string_view name) const {
  const at::Tensor& made = output_of(call);
  const auto is_it = [&](const at::Tensor& tensor) { return tensor.is_same(made); };
  for (const auto& [output, tensor] : recordings_->first.outputs)
    if (is_it(tensor)) return false;
  const auto& calls = recordings_->first.calls;
  return std::all_of(calls.begin() + static_cast<std::ptrdiff_t>(index_) + 1, calls.end(), [&](const Call& reader) {
    return !reads_any(reader, is_it) || reader.op.find(name) != std::string::npos;
  });
}

Status Lowering::lower_to(const Call& call, Op op, std::vector<ValueId> inputs, program::Attributes attributes) {
  BITLAB_TRY(const ValueId id, node(op, std::move(inputs), std::move(attributes)));
  calls_.back() = index_;
  return finish(call, id);
}

Result<ValueId> Lowering::reshape(ValueId x, const program::Shape& target) {
  if (shape(x) == target) return x;
  return node(Op::reshape, {x}, {{"shape", target}});
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

// An in-place operator changes every tensor that has some of its memory: those that this is a view of hold its new value in themselves, the others are
// viewed again where something reads them.
void Lowering::change_in_place(const at::Tensor& changed, ValueId value) {
  const auto state_of = [&](const at::Tensor& tensor) -> Written::State {
    if (const auto found = values_.find(identity(tensor)); found != values_.end()) return found->second;
    if (const auto found = written_.find(identity(tensor)); found != written_.end()) return found->second;
    return index_;
  };
  std::unordered_map<const void*, std::shared_ptr<Written>> bases;
  Written::State part = value;
  for (auto view = views_.find(identity(changed)); view != views_.end(); view = views_.find(identity(view->second.base))) {
    const at::Tensor& base = view->second.base;
    const Written::State before = state_of(base);
    // What is lost stays lost, and memory that the call's own memory does not show is not known.
    if (std::holds_alternative<size_t>(before) &&
        (is_activation(base) || !recordings_->first.calls[index_].memory.defined()))
      break;
    const auto written = std::make_shared<Written>(*this, view->second, before, part);
    bases[identity(base)] = written;
    part = written;
  }
  if (!is_activation(changed)) overwritten_.push_back(changed);
  const auto lose_others = [&](auto& states) {
    for (auto it = states.begin(); it != states.end();) {
      const auto* impl = static_cast<const at::TensorImpl*>(it->first);
      const bool is_other = impl != identity(changed) && impl->storage().is_alias_of(changed.storage());
      const bool is_lost = is_other && overlap(tensor_of(impl), changed);
      if (is_lost) lost_.insert(impl);
      it = is_lost ? states.erase(it) : std::next(it);
    }
  };
  lose_others(values_);
  lose_others(written_);
  for (auto& [key, written] : bases) written_[key] = written;
}

// Which outputs of a call are views of its first argument. One that changes its argument's shape in place leaves no view as it was.
void Lowering::remember_views(const Call& call) {
  if (call.arguments.empty() || !call.arguments[0].value.isTensor()) return;
  const at::Tensor& base = call.arguments[0].value.toTensor();
  if (!base.defined() || !base.has_storage()) return;
  if (is_reshaping_in_place(call)) {
    std::erase_if(views_,
                  [&](const auto& entry) { return entry.first == identity(base) || entry.second.base.is_same(base); });
    return;
  }
  for (const c10::IValue& output : call.outputs)
    for_each_tensor(output, [&](const at::Tensor& tensor) {
      if (tensor.defined() && !tensor.is_same(base) && tensor.has_storage() && tensor.is_alias_of(base))
        views_[identity(tensor)] = {index_, base, tensor};
    });
}

bool Lowering::is_activation(const at::Tensor& tensor) const {
  if (!tensor.defined()) return false;
  return values_.contains(identity(tensor)) || lost_.contains(identity(tensor)) || written_.contains(identity(tensor)) ||
         std::any_of(overwritten_.begin(), overwritten_.end(), [&](const at::Tensor& changed) {
           return tensor.has_storage() && tensor.is_alias_of(changed) && overlap(tensor, changed);
         });
}

bool Lowering::reads_activations(const Call& call) const {
  return reads_any(call, [&](const at::Tensor& tensor) { return is_activation(tensor); });
}

// A view that nothing reads, but that is written over.
bool Lowering::is_only_written(const Call& call) const {
  return find_view_function(call.op) != nullptr && call.outputs.size() == 1 && call.outputs[0].isTensor() &&
         views_.contains(identity(output_of(call))) && !live_->read.contains(identity(output_of(call)));
}

// What a function takes for a constant, though it is computed, would hold for the recorded values alone.
Status Lowering::check_read(const Call& call) const {
  constexpr std::string_view kUnread[] = {
      "aten::expand_as",           "aten::to.other", "aten::copy_", "aten::fill", "aten::zero_", "aten::result_type",
      "aten::_linalg_check_errors"};
  const auto begins = [&](std::string_view name) { return call.op.starts_with(name); };
  if (std::any_of(std::begin(kUnread), std::end(kUnread), begins)) return {};
  Status status;
  for (const Argument& argument : call.arguments)
    for_each_tensor(argument.value, [&](const at::Tensor& tensor) {
      if (status.ok() && argument.name != "out" && is_activation(tensor) && tensor.numel() != 0 &&
          !asked_.contains(identity(tensor)))
        status = unsupported(call, fmt::format("a constant as '{}'", argument.name), "an activation");
    });
  return status;
}

Status Lowering::lower_call(const Call& call) {
  remember_views(call);
  if (reads_activations(call) && is_only_written(call)) {
    lose(output_of(call));
    return {};
  }
  if (!reads_activations(call)) {
    const bool is_of_positions = call.op.starts_with("aten::arange") && output_of(call).scalar_type() == at::kLong &&
                                 output_of(call).sizes() != output_of(twin()).sizes();
    if (computes_tables_) {
      BITLAB_TRY(const bool is_computed, lower_table(call));
      if (is_computed) return {};
    }
    if (is_of_positions) return lower_arange(call);
    ++constant_calls_;
    if (call.op == "aten::t") remember_transpose(output_of(call), call.arguments.at(0).value.toTensor());
    const bool from_tensor = !call.arguments.empty() && call.arguments[0].value.isTensor();
    for (const c10::IValue& output : call.outputs)
      if (from_tensor && output.isTensor()) derive(output.toTensor(), call.arguments[0].value.toTensor());
    return {};
  }
  if (writes_.empty()) return lower_function(call);
  Call as_it_was = call, twin_as_it_was = *twin_;
  const bool is_set_back = set_back(as_it_was, call, recordings_->first, writes_);
  if (!set_back(twin_as_it_was, call, recordings_->twin, twin_writes_) && !is_set_back) return lower_function(call);
  twin_ = &twin_as_it_was;
  return lower_function(as_it_was);
}

Status Lowering::lower_function(const Call& call) {
  const LoweringFunction function = find_lowering(call.op);
  if (function == nullptr && returns_arguments(call)) return {};
  if (makes_nothing(call) && makes_nothing(twin())) {
    lose(output_of(call));
    return {};
  }
  if (function == nullptr) return unknown_operator(call);
  bool is_double = computes_with_double(call, [&](const at::Tensor& tensor) { return is_activation(tensor); });
  for (const c10::IValue& output : call.outputs)
    is_double = is_double || (output.isTensor() && output.toTensor().defined() &&
                              output.toTensor().scalar_type() == at::kDouble && !is_view_of_double(call));
  if (is_double)
    return unsupported(call, "float32, in which programs compute, by .float(): what 53 bits promise they cannot keep",
                       "Double");
  asked_.clear();
  try {
    BITLAB_TRY(const bool is_of_rows, lower_rows_of_samples(call));
    if (is_of_rows) return {};
    if (reads_selection(call) && (!puts_values(call) || is_selection(call.tensor("self")))) return lower_on_all_rows(call);
    // A constant that is changed in place enters as it was.
    if (!call.before.defined() || is_activation(call.arguments.at(0).value.toTensor())) {
      BITLAB_RETURN_IF_ERROR(function(*this, call));
      return check_read(call);
    }
    Call unchanged = call, twin = *twin_;
    unchanged.arguments[0].value = call.before;
    twin.arguments[0].value = twin.before;
    twin_ = &twin;
    return function(*this, unchanged);
  } catch (const c10::Error& error) {
    return unsupported(call, "arguments of the usual types", error.what_without_backtrace());
  }
}

Result<program::Program> Lowering::lower(const Recordings& recordings, std::map<std::string, std::string> metadata) {
  recordings_ = &recordings;
  writes_ = writes_of(recordings.first);
  twin_writes_ = writes_of(recordings.twin);
  for (const Recording& other : recordings.others) other_writes_.push_back(writes_of(other));
  states_ = changed_memory(recordings.first);
  const auto changed_again = changed_memory(recordings.twin);  // a cache is filled once
  std::erase_if(states_, [&](const void* memory) { return !changed_again.contains(memory); });
  for (const program::Symbol& symbol : recordings.signature.symbols) builder_.declare(symbol);
  for (const program::Port& port : recordings.signature.inputs) {
    const at::Tensor& input = recordings.first.inputs.at(port.name);
    ValueId value = builder_.input(unique_name(port.name), port.type.shape, port.type.dtype);
    if (is_rounded(input.scalar_type())) {
      BITLAB_TRY(value, cast(value, at::kFloat));
    }
    values_[identity(input)] = value;
    if (is_narrow(input.scalar_type()) || is_rounded(input.scalar_type())) rounded_[value] = input.scalar_type();
  }
  const Live live = live_parts(recordings.first, computes_tables_);
  live_ = &live;
  // Call by call, so that an operator which cannot be lowered is named before what it does to the calls behind it.
  for (index_ = 0; index_ < std::max(recordings.first.calls.size(), recordings.twin.calls.size()); ++index_) {
    BITLAB_RETURN_IF_ERROR(check_same_call(recordings, index_));
    if (!live.calls[index_]) continue;
    ++live_calls_;
    move_to(index_);
    const size_t at = index_;
    if (const Status status = lower_call(recordings.first.calls[at]); !status.ok())
      return explained(recordings, at, status.error());
  }
  std::vector<program::Output> outputs;
  const Call ends{"the network's end", {}, {}, {}, {}, {}, {}, {}, {}, {}}, twin_ends = ends;
  const std::vector<Call> other_ends(recordings.others.size(), ends);
  twin_ = &twin_ends;
  others_.clear();
  for (const Call& other : other_ends) others_.push_back(&other);
  for (const auto& [output_name, tensor] : recordings.first.outputs) {
    const auto of_recording = [&, &name = output_name](const Call& c) {
      return (&c == &ends        ? recordings.first
              : &c == &twin_ends ? recordings.twin
                                 : recordings.others.at(static_cast<size_t>(&c - other_ends.data())))
          .outputs.at(name);
    };
    BITLAB_TRY(program::ValueId value, is_activation(tensor) ? value_of(ends, tensor) : constant_of(ends, of_recording));
    if (is_rounded(tensor.scalar_type()) && dtype(value) == program::DType::kFloat32) {
      BITLAB_TRY(value, node(Op::cast, {value}, {{"dtype", std::string(name(dtype_of(tensor.scalar_type())))}}));
    }
    if (tensor.scalar_type() == at::kDouble)
      return make_error(ErrorCode::kUnsupported,
                        "[capture] outputs of float32, in which programs compute, got {} (output={})", describe(tensor),
                        output_name);
    if (tensor.is_complex())
      return make_error(ErrorCode::kUnsupported, "[capture] real outputs, got {} (output={})", describe(tensor),
                        output_name);
    if (builder_.peek().value(value).kind != program::ValueKind::kResult) {  // an output is what a node makes
      const program::Shape shape = tensor.dim() == 0 ? program::Shape() : builder_.peek().value(value).shape;
      BITLAB_TRY(value, node(program::Op::reshape, {value}, {{"shape", shape}}));
    }
    outputs.push_back({output_name, value});
  }
  for (auto& [key, text] : metadata) builder_.metadata(key, std::move(text));
  return builder_.finish(std::move(outputs));
}

}  // namespace bitlab::deploy
