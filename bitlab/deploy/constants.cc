// What stays the same from run to run, as constants of the program.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/lowering/internal/lowerings.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::deploy {
namespace {

template <class T>
std::vector<T> values_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<T>(), plain.const_data_ptr<T>() + plain.numel()};
}

// Constants that are kept as they are.
bool is_plain(at::ScalarType type) { return type == at::kLong || type == at::kInt || type == at::kBool; }

bool same_values(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_floating_point()) return at::equal(a, b);
  return a.sizes() == b.sizes() && a.eq(b).logical_or(a.isnan().logical_and(b.isnan())).all().item<bool>();
}

std::vector<uint8_t> bytes_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  const auto* bytes = static_cast<const uint8_t*>(plain.const_data_ptr());
  return {bytes, bytes + plain.nbytes()};
}

// Whether both have the same values; of samples those that a product makes, which may round otherwise for each.
bool is_repeated(const at::Tensor& one, const at::Tensor& all, bool of_samples) {
  constexpr double kRoundings = 1e-6;
  if (one.sizes() != all.sizes()) return false;
  if (same_values(one, all)) return true;
  return of_samples && all.scalar_type() == at::kFloat && at::isfinite(all).all().item<bool>() &&
         (all - one).abs().max().item<double>() <= kRoundings * all.abs().max().item<double>();
}

// A tensor without what repeats along symbols; `whole` and `rest` are its sizes with and without, of the same rank.
struct Unrepeated {
  at::Tensor part;
  program::Shape whole, rest;
};

// Along a symbol either all slices are the same, and one is enough, or the tensor is the beginning of a table. Of a multiple of a symbol, as
// batch * heads, each run of as many may be the same.
Unrepeated without_repetitions(const at::Tensor& tensor, const program::Shape& shape) {
  Unrepeated unrepeated{tensor, {}, {}};
  auto& [part, whole, rest] = unrepeated;
  for (const program::Dim& size : shape) {
    const auto dim = static_cast<int64_t>(rest.size());
    const int64_t runs = size.is_number() ? 1 : part.size(dim) / size.factor;
    const auto repeats = [&](const at::Tensor& of) {
      return is_repeated(of.narrow(dim, 0, 1).expand_as(of), of, uses(size, 0));
    };
    const at::Tensor split = part.unflatten(dim, {runs, part.size(dim) / runs});
    if (!size.is_number() && repeats(part)) {
      part = part.narrow(dim, 0, 1);
      whole.push_back(size);
      rest.emplace_back(1);
    } else if (!size.is_number() && repeats(split)) {
      part = split.narrow(dim, 0, 1);
      whole.insert(whole.end(), {with_factor(size, 1), size.factor});
      rest.insert(rest.end(), {1, size.factor});
    } else if (const at::Tensor blocks = size.is_number() ? split : part.unflatten(dim, {size.factor, runs});
               !size.is_number() && is_repeated(blocks.narrow(dim + 1, 0, 1).expand_as(blocks), blocks, uses(size, 0))) {
      part = blocks.narrow(dim + 1, 0, 1);  // as many parts, each of which repeats one slice
      whole.insert(whole.end(), {size.factor, with_factor(size, 1)});
      rest.insert(rest.end(), {size.factor, 1});
    } else {
      whole.push_back(size);
      rest.push_back(size);
    }
  }
  return unrepeated;
}

}  // namespace

Result<ValueId> Lowering::floats(const Call& call, const std::string& argument) {
  const c10::IValue& value = call.argument(argument);
  if (value.isNone() || !value.toTensor().defined()) return program::kNone;
  if (is_activation(value.toTensor())) return unsupported(call, "a constant as '" + argument + "'", "an activation");
  return constant_of(call, [&](const Call& c) { return c.argument(argument).toTensor(); });
}

// Whether a constant of other sizes is another one than this function expects of it there. What something was written over since is not known.
bool Lowering::differs_elsewhere(const std::function<at::Tensor(const Call&)>& get,
                                 const std::function<bool(const Call&)>& is_expected) const {
  for (size_t i = 0; i < others_.size(); ++i) {
    const at::Tensor source = get(*others_[i]);
    const bool is_written = source.has_storage() && i < other_writes_.size() && other_writes_[i].contains(memory_of(source));
    if (!is_written && !is_expected(*others_[i])) return true;
  }
  return false;
}

Result<ValueId> Lowering::constant_of(const Call& call, const std::function<at::Tensor(const Call&)>& get) {
  const auto get_of = [&](const Call& c) {
    const at::Tensor found = get(c);
    if (found.is_complex()) return at::view_as_real(found.resolve_conj().to(at::kComplexFloat));
    return found.to(computed_as(found.scalar_type()));
  };
  const at::Tensor tensor = get_of(call), twin_tensor = get_of(twin());
  if (const at::Tensor now = get(call); now.has_storage() && states_.contains(memory_of(now)))
    return unsupported(call, "a network without a memory of earlier runs", describe(tensor) + " that each run changes");
  const auto differs = [&](std::string expected, const std::string& found) -> Error {
    wants_tables_ = true;
    const std::string source = random_source(get(call));
    if (source.empty()) return unsupported(call, expected, found);
    return unsupported(call, "the same values in every run", "random ones of " + source);
  };
  if (tensor.scalar_type() != at::kFloat && !is_plain(tensor.scalar_type()))
    return unsupported(call, "constants of float32, int64, int32 or bool", c10::toString(tensor.scalar_type()));
  BITLAB_TRY(const program::Shape shape, shape_of(call, [&](const Call& c) { return get_of(c).sizes().vec(); }));
  const auto of_sizes = [&](const std::function<at::Tensor(const Call&)>& get_part) -> Result<ValueId> {
    BITLAB_TRY(const auto numbers, numbers_of_sizes(call, get_part));
    if (numbers) return *numbers;
    return differs("constants that depend on neither sizes nor values of inputs",
                   describe(tensor) + " whose values differ between runs of different sizes");
  };
  if (is_fixed(shape)) {
    if (!tensor.is_same(twin_tensor) && !same_values(tensor, twin_tensor)) return of_sizes(get_of);
    const auto is_the_same = [&](const Call& c) {
      const at::Tensor other = get_of(c);
      return other.is_same(tensor) || same_values(tensor, other) || is_repeated(tensor, other, true);
    };
    if (differs_elsewhere(get, is_the_same)) return of_sizes(get_of);
    const at::Tensor values = tensor.dim() == 0 ? tensor.reshape({1}) : tensor;
    return with_nan(tensor, values);
  }
  const Unrepeated unrepeated = without_repetitions(tensor, shape);
  const auto& [part, whole, rest] = unrepeated;
  ValueId value = program::kNone;
  if (is_fixed(rest)) {
    const auto part_in = [&, &whole = whole, &rest = rest](const Call& c) {
      at::Tensor found = get_of(c).reshape(shape_at(whole, sizes_in(c)));
      for (size_t i = 0; i < rest.size(); ++i)
        if (rest[i] != whole[i]) found = found.narrow(static_cast<int64_t>(i), 0, 1);
      return found;
    };
    const auto repeats = [&, &whole = whole](const Call& c) {
      const at::Tensor all = get_of(c).reshape(shape_at(whole, sizes_in(c)));
      return is_repeated(part_in(c).expand_as(all), all, true);
    };
    if (differs_elsewhere(get, repeats)) return differs("constants that repeat what is in them", describe(tensor));
    const at::Tensor twin_part = part_in(twin());
    const bool of_samples = std::any_of(whole.begin(), whole.end(), [](const program::Dim& size) { return uses(size, 0); });
    const bool is_same = same_values(part, twin_part) || is_repeated(part, twin_part, of_samples);
    const auto is_the_same = [&](const Call& c) { return is_repeated(part, part_in(c), true); };
    if (is_same && !differs_elsewhere(get, is_the_same)) {
      BITLAB_TRY(value, with_nan(part, part));
    } else {
      BITLAB_TRY(value, of_sizes(part_in));
    }
  } else {
    BITLAB_TRY(value, table_part(call, tensor, part, whole, rest, get));
  }
  BITLAB_TRY(value, node(Op::expand, {value}, {{"shape", whole}}));
  return reshape(value, shape);
}

// Constants are numbers: what is none is computed.
Result<ValueId> Lowering::with_nan(const at::Tensor& source, const at::Tensor& values) {
  if (values.scalar_type() != at::kFloat || !values.isnan().any().item<bool>()) return constant(source, values);
  const ValueId numbers = constant(at::where(values.isnan(), at::zeros_like(values), values));
  const ValueId nan = number(std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  return node(Op::where, {constant(values.isnan()), nan, numbers});
}

// Numbers that grow by the same from one to the next along the one size that has a symbol: of arange(), which needs no largest size.
Result<ValueId> Lowering::counted(const Call& call, const at::Tensor& source, const at::Tensor& part,
                                  const program::Shape& rest, const std::function<at::Tensor(const Call&)>& get,
                                  size_t symbol) {
  const auto none = [&] {
    wants_tables_ = true;
    return unsupported(
        call,
        fmt::format("a largest size of '{}', with which a constant grows", recordings_->signature.symbols[symbol].name),
        "none");
  };
  const auto open = std::find_if(rest.begin(), rest.end(), [](const program::Dim& dim) { return dim != program::Dim(1); });
  if (part.scalar_type() != at::kLong && part.scalar_type() != at::kInt && part.scalar_type() != at::kFloat) return none();
  const at::Tensor numbers = part.reshape({-1}).to(at::kDouble);
  if (numbers.numel() < 2 || open == rest.end() || open->is_number() || program::volume(rest) != *open) return none();
  const double first = numbers[0].item<double>(), step = numbers[1].item<double>() - first;
  const auto are_counted = [&](const at::Tensor& found) {
    return at::equal(found, at::arange(found.numel(), at::kDouble) * step + first);
  };
  const bool is_whole = first == std::floor(first) && step == std::floor(step);
  const auto are_counted_in = [&](const Call& c) {
    at::Tensor found = get(c);
    if (found.dim() != static_cast<int64_t>(rest.size())) return false;
    for (size_t i = 0; i < rest.size(); ++i)
      if (rest[i] == program::Dim(1)) found = found.narrow(static_cast<int64_t>(i), 0, 1);
    return are_counted(found.reshape({-1}).to(at::kDouble));
  };
  if (!is_whole || !are_counted(numbers) || !are_counted_in(twin()) || differs_elsewhere(get, are_counted_in)) return none();
  BITLAB_TRY(ValueId value, counted_to(*this, *open));
  if (step != 1) {
    BITLAB_TRY(value, with_number(*this, Op::mul, value, step));
  }
  if (first != 0) {
    BITLAB_TRY(value, with_number(*this, Op::add, value, first));
  }
  BITLAB_TRY(value, cast(value, source.scalar_type()));
  return reshape(value, rest);
}

// `part`: the tensor without its repetitions, `rest` its shape, `whole` that with them. The recording at the largest sizes has the whole table.
Result<ValueId> Lowering::table_part(const Call& call, const at::Tensor& source, const at::Tensor& part,
                                     const program::Shape& whole, const program::Shape& rest,
                                     const std::function<at::Tensor(const Call&)>& get) {
  if (std::any_of(rest.begin(), rest.end(), [](const program::Dim& dim) { return uses(dim, 0); })) {
    if (const std::string random = random_source(source); !random.empty())
      return unsupported(call, "the same values in every run", "random ones of " + random);
    wants_tables_ = true;
    return unsupported(call, "constants that are the same for each sample", describe(source) + " with values that differ");
  }
  if (!recordings_->largest) {
    for (const program::Dim& dim : rest)
      for (size_t s = 0; s < recordings_->signature.symbols.size(); ++s)
        if (uses(dim, s) && recordings_->signature.symbols[s].max == program::kMaxElements)
          return counted(call, source, part, rest, get, s);
    wants_largest_ = true;
    return unsupported(call, "a recording at the largest sizes", "none");
  }
  const auto& calls = recordings_->largest->calls;
  if (index_ >= calls.size() || calls[index_].op != call.op)
    return unsupported(call, "the same operators at the largest sizes", index_ < calls.size() ? calls[index_].op : "none");
  at::Tensor table = get(calls[index_]);
  const std::vector<int64_t> sizes = shape_at(whole, recordings_->largest_sizes);
  if (std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>()) != table.numel())
    return unsupported(call, "a constant of shape " + program::to_string(sizes), describe(table));
  table = table.reshape(sizes);
  for (size_t i = 0; i < rest.size(); ++i)
    if (rest[i] == program::Dim(1) && part.size(static_cast<int64_t>(i)) == 1)
      table = table.narrow(static_cast<int64_t>(i), 0, 1);
  at::Tensor beginning = table;
  for (int64_t i = 0; i < part.dim(); ++i) {
    if (beginning.size(i) < part.size(i)) {
      wants_tables_ = true;
      return unsupported(call, "a constant that grows", describe(beginning));
    }
    beginning = beginning.narrow(i, 0, part.size(i));
  }
  if (!at::equal(beginning, part)) {
    wants_tables_ = true;
    return unsupported(call, "a constant whose beginning stays as it grows", describe(source) + " with values that change");
  }
  ValueId value = constant(source, table);
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i].is_number()) continue;
    BITLAB_TRY(value, slice_of(*this, value, static_cast<int64_t>(i), 0, rest[i]));
  }
  return value;
}

std::optional<c10::OperatorHandle> operator_of(const Call& call) {
  return c10::Dispatcher::singleton().findSchema({call.function(), call.overload()});
}

// The operator that drew random numbers for a tensor; nothing where none did.
std::string Lowering::random_source(const at::Tensor& tensor) const {
  std::unordered_set<const void*> wanted{
      memory_of(tensor)};  // what PyTorch's factories return shares it, and is another tensor
  for (size_t i = recordings_->first.calls.size(); i-- > 0;) {
    const Call& call = recordings_->first.calls[i];
    bool makes = false;
    const auto is_wanted = [&](const at::Tensor& made) {
      makes = makes || (made.defined() && wanted.contains(memory_of(made)));
    };
    for (const c10::IValue& output : call.outputs) for_each_tensor(output, is_wanted);
    if (!makes) continue;
    const auto handle = operator_of(call);
    if (handle && handle->hasTag(at::Tag::nondeterministic_seeded)) return call.op;
    for (const Argument& argument : call.arguments)
      for_each_tensor(argument.value, [&](const at::Tensor& read) {
        if (read.defined()) wanted.insert(memory_of(read));
      });
  }
  return {};
}

// Memory that was there before the forward pass, and that each pass changes: counters, running means.
std::unordered_set<const void*> changed_memory(const Recording& recording) {
  std::unordered_set<const void*> made, changed;
  for (const auto& [name, input] : recording.inputs) made.insert(memory_of(input));
  for (const Call& call : recording.calls) {
    std::unordered_set<const void*> given;
    for (const Argument& argument : call.arguments)
      for_each_tensor(argument.value, [&](const at::Tensor& tensor) {
        if (tensor.defined()) given.insert(memory_of(tensor));
      });
    for (const c10::IValue& output : call.outputs)
      for_each_tensor(output, [&](const at::Tensor& tensor) {
        if (tensor.defined() && !given.contains(memory_of(tensor))) made.insert(memory_of(tensor));
      });
    if (!call.is_in_place() || !call.before.defined()) continue;
    const at::Tensor& now = call.arguments.at(0).value.toTensor();
    if (!made.contains(memory_of(now)) && now.sizes() == call.before.sizes() && !at::equal(call.before, now))
      changed.insert(memory_of(now));
  }
  return changed;
}

Lowering::Writes Lowering::writes_of(const Recording& recording) {
  Writes writes;
  for (size_t i = 0; i < recording.calls.size(); ++i)
    if (const Call& call = recording.calls[i]; call.is_in_place() && call.before.defined())
      writes[memory_of(call.arguments.at(0).value.toTensor())].push_back(i);
  return writes;
}

bool Lowering::set_back(Call& call, const Call& recorded, const Recording& recording, const Writes& writes) const {
  bool any = false;
  const auto as_it_was = [&](const at::Tensor& key, const at::Tensor& now) {
    if (!key.defined() || is_activation(key) || !now.has_storage()) return now;
    const auto found = writes.find(memory_of(now));
    if (found == writes.end()) return now;
    const auto next = std::upper_bound(found->second.begin(), found->second.end(), index_);
    if (next == found->second.end()) return now;
    const Call& write = recording.calls[*next];
    const at::Tensor& then = write.memory.defined() ? write.memory : write.before;
    if (then.scalar_type() != now.scalar_type()) return now;
    any = true;
    return then.as_strided(now.sizes(), now.strides(), now.storage_offset()).clone();
  };
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    if ((i == 0 && call.is_in_place()) || call.arguments[i].name == "out") continue;  // what it writes into
    c10::IValue& value = call.arguments[i].value;
    const c10::IValue& key = recorded.arguments[i].value;
    if (value.isTensor() && value.toTensor().defined()) {
      value = as_it_was(key.toTensor(), value.toTensor());
    } else if (value.isTensorList()) {
      const auto keys = key.toTensorVector(), now = value.toTensorVector();
      c10::List<at::Tensor> list;
      for (size_t j = 0; j < now.size(); ++j) list.push_back(as_it_was(keys[j], now[j]));
      value = list;
    }
  }
  return any;
}

ValueId Lowering::number(const at::Scalar& value, at::ScalarType type) {
  if (type == at::kFloat && std::isnan(value.toDouble())) return node(Op::log, {number(-1, type)}).value();
  return constant(at::full({1}, value, is_narrow(type) ? at::kInt : type));
}

ValueId Lowering::constant(const at::Tensor& source, const at::Tensor& values) {
  // One tensor may be read in several orders, as the weight of a convolution and of its transpose; the builder knows equal ones.
  const bool is_as_read = values.is_same(source);
  const auto known = constants_.find(identity(source));
  if (known != constants_.end() && is_as_read) return known->second;
  const auto named = names_.find(identity(source));
  const std::string constant_name = unique_name(named == names_.end() ? "constant" : named->second);
  ValueId id = program::kNone;
  if (is_plain(values.scalar_type())) {
    id = builder_.raw(constant_name, dtype_of(values.scalar_type()), values.sizes().vec(), bytes_of(values));
  } else {
    id = builder_.floats(constant_name, values.sizes().vec(), values_of<float>(values.to(at::kFloat)));
  }
  if (is_as_read) constants_[identity(source)] = id;
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

}  // namespace bitlab::deploy
