#include "bitlab/train/internal/pytorch_tensor.h"

#include <algorithm>
#include <array>

#include <ATen/ops/empty.h>
#include <c10/util/safe_numerics.h>

namespace bitlab::train {
namespace {

using Kind = PickleValue::Kind;

const PickleValue& argument(const PickleValue& sequence, size_t index, Kind kind, std::string_view what) {
  if (index >= sequence.items.size()) fail(ErrorCode::kCorrupt, "{} in a pickled tensor, got none", what);
  if (sequence.items[index]->kind != kind)
    fail(ErrorCode::kCorrupt, "{} in a pickled tensor, got {}", what, printable(kind_name(*sequence.items[index])));
  return *sequence.items[index];
}

std::vector<int64_t> integers(const PickleValue& sequence) {
  constexpr size_t kMaxDimensions = 64;
  if (sequence.items.size() > kMaxDimensions)
    fail(ErrorCode::kCorrupt, "at most {} dimensions, got {}", kMaxDimensions, sequence.items.size());
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    sizes.push_back(argument(sequence, i, Kind::kInt, "sizes and strides").integer);
    if (sizes.back() < 0) fail(ErrorCode::kCorrupt, "sizes and strides of at least 0, got {}", sizes.back());
  }
  return sizes;
}

// The dtype of "torch.FloatStorage" or "torch.float32".
at::ScalarType dtype_of(const std::string& name) {
  constexpr std::string_view kModule = "torch.";
  for (int i = 0; i < static_cast<int>(at::ScalarType::NumOptions); ++i) {
    const auto type = static_cast<at::ScalarType>(i);
    if (name == fmt::format("torch.{}Storage", c10::toString(type))) return type;
  }
  const auto& types = c10::getStringToDtypeMap();
  const auto found = name.starts_with(kModule) ? types.find(name.substr(kModule.size())) : types.end();
  if (found == types.end()) fail(ErrorCode::kUnsupported, "a dtype of LibTorch, got '{}'", printable(name));
  return found->second;
}

bool is_plain(at::ScalarType type) {
  return at::isFloatingType(type) || at::isComplexType(type) || at::isIntegralType(type, /*includeBool=*/true);
}

// A function of torch/_utils.py that makes a tensor of (storage, offset, sizes, strides, requires_grad, backward_hooks, ...).
struct StridedFunction {
  std::string_view name;
  size_t dtype, flags;  // the positions of these arguments; 0: it has none
};
constexpr std::array kStrided{StridedFunction{"torch._utils._rebuild_tensor", 0, 0},
                              StridedFunction{"torch._utils._rebuild_tensor_v2", 0, 6},
                              StridedFunction{"torch._utils._rebuild_tensor_v3", 6, 7}};

const StridedFunction& strided_function(const std::string& callee) {
  const auto* found =
      std::find_if(kStrided.begin(), kStrided.end(), [&](const StridedFunction& f) { return f.name == callee; });
  if (found != kStrided.end()) return *found;
  constexpr std::array kKinds{std::pair{"sparse", "a sparse one"},     std::pair{"nested", "a nested one"},
                              std::pair{"njt", "a nested one"},        std::pair{"qtensor", "a quantized one"},
                              std::pair{"meta", "one without values"}, std::pair{"Uninitialized", "one without values"}};
  const auto* kind = std::find_if(kKinds.begin(), kKinds.end(),
                                  [&](const auto& pair) { return callee.find(pair.first) != std::string::npos; });
  fail(ErrorCode::kUnsupported, "dense tensors, got {} that {} makes", kind == kKinds.end() ? "one" : kind->second,
       printable(callee));
}

// The call at the bottom of wrappers: of a parameter, of a subclass, of a tensor that another device had.
struct Call {
  std::string callee;
  const PickleValue* arguments;
  std::optional<at::ScalarType> cast{};  // a dtype that the result gets
};

// The wrapped tensor, or none where the call wraps none.
std::optional<Call> unwrap(const Call& call) {
  const auto inner = [](const PickleValue& tensor) {
    if (tensor.has_state)
      fail(ErrorCode::kUnsupported, "tensors without a state of their own, got one that {} makes",
           printable(tensor.items[0]->text));
    return Call{tensor.items[0]->text, tensor.items[1]};
  };
  const auto& [callee, arguments, cast] = call;
  if (callee == "torch._utils._rebuild_parameter" || callee == "torch._utils._rebuild_parameter_with_state")
    return inner(argument(*arguments, 0, Kind::kObject, "a tensor"));
  if (callee == "torch._tensor._rebuild_from_type" || callee == "torch._tensor._rebuild_from_type_v2")
    return Call{argument(*arguments, 0, Kind::kGlobal, "a function").text,
                &argument(*arguments, 2, Kind::kSequence, "arguments")};
  if (callee != "torch._utils._rebuild_device_tensor_from_cpu_tensor") return std::nullopt;
  Call data = inner(argument(*arguments, 0, Kind::kObject, "a tensor"));
  data.cast = dtype_of(argument(*arguments, 1, Kind::kGlobal, "a dtype").text);
  if (!is_plain(*data.cast)) fail(ErrorCode::kUnsupported, "dense tensors, got {}", c10::toString(*data.cast));
  return data;
}

Call innermost(const PickleValue& tensor) {
  constexpr int kMaxDepth = 4;  // a parameter of a subclass of a tensor
  if (tensor.has_state)
    fail(ErrorCode::kUnsupported, "tensors without a state of their own, got one that {} makes",
         printable(tensor.items[0]->text));
  Call call{tensor.items[0]->text, tensor.items[1]};
  for (int depth = 0; auto inner = unwrap(call); ++depth) {
    if (depth == kMaxDepth || (inner->cast && call.cast))
      fail(ErrorCode::kCorrupt, "a pickled tensor, got a nest of {}", printable(call.callee));
    if (!inner->cast) inner->cast = call.cast;
    call = *inner;
  }
  return call;
}

struct Flags {
  bool conjugate = false, negative = false;
};

// {"conj": True, "neg": True}: a tensor that is, as a whole, conjugated or negated.
Flags flags_of(const PickleValue& tagged) {
  const PickleValue& metadata = without_type_tag(tagged);
  Flags flags;
  if (metadata.kind == Kind::kOther && metadata.text == "NoneType") return flags;
  if (metadata.kind != Kind::kDict)
    fail(ErrorCode::kCorrupt, "flags of a tensor as a dictionary, got {}", printable(kind_name(metadata)));
  for (size_t i = 0; i < metadata.items.size(); i += 2) {
    const PickleValue &key = *metadata.items[i], &value = *metadata.items[i + 1];
    const bool is_known = key.kind == Kind::kString && (key.text == "conj" || key.text == "neg");
    if (!is_known)
      fail(ErrorCode::kUnsupported, "the flags 'conj' and 'neg' of a tensor, got {}",
           key.kind == Kind::kString ? fmt::format("'{}'", printable(key.text)) : "one without a name");
    if (value.kind != Kind::kBool || value.integer != 1)
      fail(ErrorCode::kUnsupported, "True for the flag '{}' of a tensor, got {}", key.text,
           value.kind == Kind::kBool ? "False" : printable(kind_name(value)));
    (key.text == "conj" ? flags.conjugate : flags.negative) = true;
  }
  return flags;
}

at::Tensor resolve(at::Tensor tensor, Flags flags) {
  if (flags.conjugate && !tensor.is_complex())
    fail(ErrorCode::kCorrupt, "complex values with the flag 'conj', got {}", c10::toString(tensor.scalar_type()));
  if (flags.negative && tensor.scalar_type() == at::kBool)
    fail(ErrorCode::kCorrupt, "numbers with the flag 'neg', got {}", c10::toString(tensor.scalar_type()));
  if (flags.conjugate) tensor = tensor.conj_physical();
  if (flags.negative) tensor = tensor.neg();
  return tensor.contiguous();
}

}  // namespace

std::string maker(const PickleValue& object) {
  const PickleValue& callee = *object.items[0];
  const auto& arguments = object.items[1]->items;
  const bool generic = callee.text == "copyreg._reconstructor" && !arguments.empty() && arguments[0]->kind == Kind::kGlobal;
  return generic ? arguments[0]->text : callee.text;
}

const PickleValue& without_type_tag(const PickleValue& value) {
  const bool is_tagged = value.kind == Kind::kObject && maker(value) == "torch.jit._pickle.restore_type_tag";
  return is_tagged && !value.items[1]->items.empty() ? *value.items[1]->items[0] : value;
}

bool is_tensor(const PickleValue& value) {
  if (value.kind != Kind::kObject) return false;
  const std::string name = maker(value);
  const std::string_view last = std::string_view(name).substr(name.rfind('.') + 1);
  return name.starts_with("torch.") && (last.starts_with("_rebuild") || last.ends_with("Tensor") ||
                                        last.ends_with("Parameter") || last.ends_with("Buffer"));
}

std::optional<std::vector<int64_t>> sizes_of(const PickleValue& tensor) {
  try {
    const Call call = innermost(tensor);
    static_cast<void>(strided_function(call.callee));
    return integers(argument(*call.arguments, 2, Kind::kSequence, "sizes"));
  } catch (const Exception&) {
    return std::nullopt;
  }
}

at::Tensor TensorReader::read(const PickleValue& tensor) {
  const Call call = innermost(tensor);
  const StridedFunction& function = strided_function(call.callee);
  const size_t most = std::max({size_t{6}, function.dtype + 1, function.flags + 1}), got = call.arguments->items.size();
  if (got > most) fail(ErrorCode::kUnsupported, "at most {} arguments of {}, got {}", most, function.name, got);
  std::optional<at::ScalarType> dtype;
  if (function.dtype != 0) dtype = dtype_of(argument(*call.arguments, function.dtype, Kind::kGlobal, "a dtype").text);
  const bool has_flags = function.flags != 0 && got > function.flags;
  const Flags flags = has_flags ? flags_of(*call.arguments->items[function.flags]) : Flags();
  const at::Tensor values = resolve(strided(*call.arguments, dtype), flags);
  return call.cast ? values.to(*call.cast) : values;
}

// (storage, offset, sizes, strides, ...), the storage as ("storage", its class, its record, device, count).
at::Tensor TensorReader::strided(const PickleValue& arguments, std::optional<at::ScalarType> dtype) {
  const PickleValue& id = *argument(arguments, 0, Kind::kPersistent, "a storage").items[0];
  const at::ScalarType type = dtype ? *dtype : dtype_of(argument(id, 1, Kind::kGlobal, "the class of a storage").text);
  if (!is_plain(type)) fail(ErrorCode::kUnsupported, "dense tensors, got {}", c10::toString(type));
  if (id.items.size() > 3 && id.items[3]->text == "meta")
    fail(ErrorCode::kUnsupported, "dense tensors, got one of the device 'meta', without values");
  const c10::Storage& storage = storage_of(argument(id, 2, Kind::kString, "the name of a storage").text);
  const int64_t offset = argument(arguments, 1, Kind::kInt, "an offset").integer;
  const auto sizes = integers(argument(arguments, 2, Kind::kSequence, "sizes"));
  const auto strides = integers(argument(arguments, 3, Kind::kSequence, "strides"));
  if (count_values(storage.nbytes() / c10::elementSize(type), offset, sizes, strides) == 0) return at::empty(sizes, type);
  return at::empty({0}, type).set_(storage, offset, sizes, strides);
}

const c10::Storage& TensorReader::storage_of(const std::string& key) {
  const auto found = storages_.find(key);
  return found != storages_.end() ? found->second : storages_.emplace(key, archive_.storage("data/" + key)).first->second;
}

// Those of a tensor, which must lie within the `available` ones of its storage.
uint64_t TensorReader::count_values(uint64_t available, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides) {
  if (offset < 0 || sizes.size() != strides.size())
    fail(ErrorCode::kCorrupt, "a stride for each dimension and an offset of at least 0, got {} strides and {}",
         strides.size(), offset);
  uint64_t count = 1, last = static_cast<uint64_t>(offset);
  bool overflow = false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto size = static_cast<uint64_t>(sizes[i]), stride = static_cast<uint64_t>(strides[i]);
    uint64_t step = 0;
    overflow |= c10::mul_overflows(count, size, &count);
    overflow |= size > 0 && c10::mul_overflows(size - 1, stride, &step);
    overflow |= c10::add_overflows(last, step, &last);
  }
  if (overflow || (count > 0 && last >= available))
    fail(ErrorCode::kCorrupt, "tensors within their storages, got sizes {} with strides {} from {} on in one of {} values",
         c10::str(sizes), c10::str(strides), offset, available);
  if (count > budget_) fail(ErrorCode::kCorrupt, "at most {} values for each byte of the file, got more", kValuesPerByte);
  budget_ -= count;
  return count;
}

}  // namespace bitlab::train
