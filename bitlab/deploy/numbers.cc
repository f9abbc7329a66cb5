// Numbers and tables that follow from sizes: 1 / (width - 1), log(tokens), linspace(-1, 1, width).
#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ops/equal.h>

#include "bitlab/deploy/internal/found.h"
#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

using program::Dim;
using Values = std::vector<double>;

// What numbers are multiples of, where they follow from a size.
enum class Function { kSize, kReciprocal, kRoot, kReciprocalRoot, kLog };
constexpr std::array kFunctions{Function::kSize, Function::kReciprocal, Function::kRoot, Function::kReciprocalRoot,
                                Function::kLog};

double value_of(Function function, double size) {
  switch (function) {
    case Function::kSize:
      return size;
    case Function::kReciprocal:
      return 1 / size;
    case Function::kRoot:
      return std::sqrt(size);
    case Function::kReciprocalRoot:
      return 1 / std::sqrt(size);
    case Function::kLog:
      return std::log(size);
  }
  return 0;
}

// factor f(size) + offset
struct Form {
  Function function = Function::kSize;
  Dim size;
  double factor = 1, offset = 0;
};

// A number that is written as one, but for the roundings of what it was computed of.
double rounded_to_whole(double number, double tolerance) {
  const double whole = std::round(number);
  return std::abs(number - whole) <= tolerance * std::max(1.0, std::abs(whole)) ? whole : number;
}

bool are_near(const Values& found, const Values& wanted, double tolerance) {
  double most = 0;
  for (const double value : found) most = std::max(most, std::abs(value));
  return std::equal(found.begin(), found.end(), wanted.begin(),
                    [&](double a, double b) { return std::abs(a - b) <= tolerance * most; });
}

// The form of numbers that are found at several sizes. An offset takes one of them to tell, so that it is only for numbers that are known to the last bits.
std::optional<Form> form_of(const Values& found, const std::vector<program::SymbolSizes>& sizes,
                            const std::vector<Dim>& units, double tolerance, bool with_offset) {
  for (const Dim& unit : units)
    for (const Function function : kFunctions) {
      Values at;
      for (const program::SymbolSizes& each : sizes) at.push_back(value_of(function, static_cast<double>(unit.at(each))));
      const bool is_defined = std::all_of(at.begin(), at.end(), [](double value) { return std::isfinite(value); });
      if (!is_defined || at[0] == at[1] || at[0] == 0) continue;
      Form form{function, unit, found[0] / at[0], 0};
      if (with_offset) {
        form.factor = (found[0] - found[1]) / (at[0] - at[1]);
        form.offset = rounded_to_whole(found[0] - form.factor * at[0], tolerance * 8);
      }
      form.factor = rounded_to_whole(form.factor, tolerance * 8);
      Values wanted;
      for (const double value : at) wanted.push_back(form.factor * value + form.offset);
      if (are_near(found, wanted, tolerance)) return form;
    }
  return std::nullopt;
}

const c10::IValue* argument_of(const Call& call, std::string_view name) {
  for (const Argument& argument : call.arguments)
    if (argument.name == name) return &argument.value;
  return nullptr;
}

// A number that a call is given, or what it stands for where it is left out.
double number_in(const Call& call, std::string_view name, double otherwise) {
  const c10::IValue* value = argument_of(call, name);
  return value == nullptr || value->isNone() ? otherwise : value->toScalar().toDouble();
}

}  // namespace

// The size as a value, int64 [1]: one more than the last of its positions.
Result<ValueId> Lowering::size_value(const Dim& size) {
  const auto known =
      std::find_if(size_values_.begin(), size_values_.end(), [&](const auto& entry) { return entry.first == size; });
  if (known != size_values_.end()) return known->second;
  BITLAB_TRY(ValueId value, counted_to(*this, size));
  BITLAB_TRY(value, slice_of(*this, value, 0, -1, 1));
  BITLAB_TRY(value, with_number(*this, Op::add, value, 1));
  size_values_.emplace_back(size, value);
  return value;
}

// The sizes that numbers may follow from: symbols and sums, and such a one and a small number, or two of them multiplied.
std::vector<Dim> Lowering::units_of_numbers() {
  std::vector<Dim> units;
  for (size_t i = 1; i < recordings_->signature.symbols.size(); ++i) units.push_back(Dim::of_symbol(i));
  const auto sums = known_sums();
  std::copy_if(sums.begin(), sums.end(), std::back_inserter(units), [](const Dim& dim) { return !uses(dim, 0); });
  const size_t count = units.size();
  for (size_t i = 0; i < count; ++i)
    for (const int64_t number : {-1, 1, -2, 2})
      if (auto dim = sum(units[i], number)) units.push_back(*std::move(dim));
  for (size_t i = 0; i < count; ++i)
    for (size_t k = i; k < count; ++k) units.push_back(units[i] * units[k]);
  return units;
}

Result<std::optional<ValueId>> Lowering::number_of_sizes(const Call& call, const std::function<double(const Call&)>& get,
                                                         at::ScalarType type, Precision precision) {
  const Values found = in_all(call, get);
  // Two recordings tell a factor, and no more.
  if (is_one_number(found) || found.size() < 3) return std::optional<ValueId>();
  const double tolerance = precision == Precision::kDouble ? 1e-12 : 5e-7;
  const bool is_integer = type == at::kLong || type == at::kInt || is_narrow(type);
  std::optional<Form> form;
  if (std::all_of(found.begin(), found.end(), [](double value) { return value >= 1 && value == std::floor(value); })) {
    const std::vector<int64_t> whole(found.begin(), found.end());
    const auto dim = found_as(whole);
    if (dim && !uses(*dim, 0)) form = Form{Function::kSize, *dim};
  }
  const std::vector<Dim> units = units_of_numbers();
  if (!form) form = form_of(found, all_sizes(), units, tolerance, false);
  if (!form && precision == Precision::kDouble) form = form_of(found, all_sizes(), units, tolerance, true);
  const auto is_whole = [](double number) { return number == std::floor(number); };
  if (!form || (is_integer && (form->function != Function::kSize || !is_whole(form->factor) || !is_whole(form->offset))))
    return std::optional<ValueId>();
  BITLAB_TRY(ValueId value, size_value(form->size));
  BITLAB_TRY(value, cast(value, type));
  const bool is_root = form->function == Function::kRoot || form->function == Function::kReciprocalRoot;
  if (is_root) {
    BITLAB_TRY(value, node(Op::sqrt, {value}));
  }
  if (form->function == Function::kLog) {
    BITLAB_TRY(value, node(Op::log, {value}));
  }
  if (form->function == Function::kReciprocal || form->function == Function::kReciprocalRoot) {
    BITLAB_TRY(value, node(Op::div, {number(form->factor, type), value}));
  } else {
    BITLAB_TRY(value, scaled(*this, value, form->factor));
  }
  if (form->offset != 0) {
    BITLAB_TRY(value, with_number(*this, Op::add, value, form->offset));
  }
  return std::optional(value);
}

Result<std::optional<ValueId>> Lowering::numbers_of_sizes(const Call& call,
                                                          const std::function<at::Tensor(const Call&)>& get) {
  constexpr int64_t kMostNumbers = 16;
  const at::Tensor tensor = get(call);
  if (tensor.numel() > kMostNumbers || tensor.is_complex() || tensor.scalar_type() == at::kBool)
    return std::optional<ValueId>();
  std::vector<ValueId> parts;
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const auto one = [&](const Call& c) { return get(c).reshape({-1})[i].to(at::kDouble).item<double>(); };
    const std::vector<double> found = in_all<double>(call, one);
    if (is_one_number(found)) {
      parts.push_back(number(found[0], tensor.scalar_type()));
      continue;
    }
    BITLAB_TRY(const auto value, number_of_sizes(call, one, tensor.scalar_type(), Precision::kFloat));
    if (!value) return std::optional<ValueId>();
    parts.push_back(*value);
  }
  if (parts.empty()) return std::optional<ValueId>();
  ValueId value = parts[0];
  if (parts.size() > 1) {
    BITLAB_TRY(value, node(Op::cat, parts, {{"dim", int64_t{0}}}));
  }
  const program::Shape shape(tensor.sizes().begin(), tensor.sizes().end());
  if (shape.size() > 1) {
    BITLAB_TRY(value, reshape(value, shape));
  }
  return std::optional(value);
}

Result<ValueId> Lowering::number_in_all(const Call& call, const std::function<double(const Call&)>& get,
                                        at::ScalarType type) {
  BITLAB_TRY(const auto value, number_of_sizes(call, get, type, Precision::kDouble));
  if (value) return *value;
  const Values found = in_all(call, get);
  if (is_one_number(found)) return number(found[0], type);
  return unsupported(call, "numbers that are the same in every run, or follow from sizes",
                     fmt::format("{} and {}", found[0], found[1]));
}

// start, start + step, ..., of integers and of floats.
Status Lowering::lower_arange(const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(const Dim size, dim_of(call, [](const Call& c) { return output_of(c).size(0); }));
  if (uses(size, 0))  // what a sample gets would depend on its place in the batch
    return unsupported(call, "positions that are the same for each sample", "as many as the batch has");
  BITLAB_TRY(ValueId value, counted_to(*this, size));
  if (type != at::kLong) {
    BITLAB_TRY(value, cast(value, type));
  }
  for (const auto& [name, op, nothing] : {std::tuple{"step", Op::mul, 1.0}, std::tuple{"start", Op::add, 0.0}}) {
    const auto get = [&, &name = name, &nothing = nothing](const Call& c) { return number_in(c, name, nothing); };
    const Values found = in_all<double>(call, get);
    if (std::all_of(found.begin(), found.end(), [&, &nothing = nothing](double each) { return each == nothing; })) continue;
    BITLAB_TRY(const ValueId number, number_in_all(call, get, type));
    BITLAB_TRY(value, node(op, {value, number}));
  }
  calls_.back() = index_;
  return finish(call, value);
}

// start + i (end - start) / (n - 1), where a table of one has the start.
Status Lowering::lower_linspace(const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  const c10::IValue &start = call.argument("start"), &end = call.argument("end");
  if (type != at::kFloat || !start.isScalar() || !end.isScalar())
    return unsupported(call, "float32 values between two numbers", describe(output_of(call)));
  BITLAB_TRY(const Dim size, dim_of(call, [](const Call& c) { return output_of(c).size(0); }));
  if (uses(size, 0)) return unsupported(call, "values that are the same for each sample", "as many as the batch has");
  const auto start_in = [](const Call& c) { return number_in(c, "start", 0); };
  BITLAB_TRY(const ValueId first, number_in_all(call, start_in, type));
  BITLAB_TRY(const ValueId whole, number_in_all(
                                      call, [&](const Call& c) { return number_in(c, "end", 0) - start_in(c); }, type));
  BITLAB_TRY(ValueId steps, size_value(size));
  BITLAB_TRY(steps, with_number(*this, Op::add, steps, -1));
  BITLAB_TRY(steps, with_number(*this, Op::maximum, steps, 1));
  BITLAB_TRY(steps, cast(steps, type));
  BITLAB_TRY(ValueId value, counted_to(*this, size));
  BITLAB_TRY(value, cast(value, type));
  BITLAB_TRY(value, node(Op::mul, {value, whole}));
  BITLAB_TRY(value, node(Op::div, {value, steps}));
  BITLAB_TRY(value, node(Op::add, {value, first}));
  set_exactness(program::Exactness::kBounded);
  return finish(call, value);
}

// 1 where the row is the column.
Status Lowering::lower_eye(const Call& call) {
  BITLAB_TRY(const program::Shape shape, shape_of_output(call));
  BITLAB_TRY(ValueId rows, counted_to(*this, shape[0]));
  BITLAB_TRY(rows, reshape(rows, {shape[0], 1}));
  BITLAB_TRY(const ValueId columns, counted_to(*this, shape[1]));
  BITLAB_TRY(ValueId value, node(Op::equal, {rows, columns}));
  BITLAB_TRY(value, cast(value, output_of(call).scalar_type()));
  return finish(call, value);
}

// One number everywhere.
Status Lowering::lower_filled(const Call& call) {
  const std::string function = call.function();
  const bool is_given = function.find("full") != std::string::npos;
  const auto number_of = [&](const Call& c) {
    return is_given ? number_in(c, "fill_value", 0) : function.find("ones") != std::string::npos ? 1.0 : 0.0;
  };
  BITLAB_TRY(const program::Shape shape, shape_of_output(call));
  BITLAB_TRY(const ValueId value, number_in_all(call, number_of, computed_as(output_of(call).scalar_type())));
  return lower_to(call, Op::expand, {value}, {{"shape", shape}});
}

// Tables that grow with a size, and that no operator computes of the inputs: computed in each run, rather than taken of recordings.
Result<bool> Lowering::lower_table(const Call& call) {
  const std::string function = call.function();
  constexpr std::string_view kDerived[] = {"aten::cumsum", "aten::tril", "aten::triu", "aten::diag_embed",
                                           "aten::unfold_backward"};
  const bool is_derived =
      std::find(std::begin(kDerived), std::end(kDerived), function) != std::end(kDerived) || is_upsampling(call);
  if (!makes_filled(call) && !makes_table(call) && !is_derived) return false;
  const auto is_it = [&](const Call& c) {
    const at::Tensor &made = output_of(call), &other = output_of(c);
    return makes_filled(call) ? made.sizes() == other.sizes() : at::equal(made, other);
  };
  if (is_it(twin()) && std::all_of(others_.begin(), others_.end(), [&](const Call* other) { return is_it(*other); }))
    return false;
  const auto lowered = [&]() -> Status {
    if (makes_filled(call)) return lower_filled(call);
    if (function == "aten::arange") return lower_arange(call);
    if (function == "aten::linspace") return lower_linspace(call);
    return function == "aten::eye" ? lower_eye(call) : lower_function(call);
  };
  return lowered().ok();  // or a constant as before
}

}  // namespace bitlab::deploy
