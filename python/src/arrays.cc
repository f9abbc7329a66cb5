#include "arrays.h"

#include <algorithm>
#include <array>
#include <memory>
#include <nanobind/stl/string.h>

#include "bitlab/base/internal/half.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using program::DType;

struct Type {
  DType dtype;
  nb::dlpack::dtype dlpack;
};

nb::dlpack::dtype dlpack(nb::dlpack::dtype_code code, uint8_t bits) { return {static_cast<uint8_t>(code), bits, 1}; }

const std::array<Type, 6>& types() {
  using Code = nb::dlpack::dtype_code;
  static const std::array<Type, 6> types{{{DType::kFloat32, dlpack(Code::Float, 32)},
                                          {DType::kFloat16, dlpack(Code::Float, 16)},
                                          {DType::kBFloat16, dlpack(Code::Bfloat, 16)},
                                          {DType::kInt64, dlpack(Code::Int, 64)},
                                          {DType::kInt32, dlpack(Code::Int, 32)},
                                          {DType::kBool, dlpack(Code::Bool, 8)}}};
  return types;
}

enum class NumberKind { kInteger, kFloat, kOther };

// bfloat16 is no type of NumPy's.
NumberKind kind_of(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const auto is = [&](Code code) { return type.code == static_cast<uint8_t>(code); };
  return is(Code::Int) || is(Code::UInt) ? NumberKind::kInteger : is(Code::Float) ? NumberKind::kFloat : NumberKind::kOther;
}

DType dtype_of(const Array& array, std::string_view name) {
  for (const Type& type : types())
    if (type.dlpack == array.dtype()) return type.dtype;
  constexpr std::string_view kCodes[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  const nb::dlpack::dtype type = array.dtype();
  throw Exception(make_error(ErrorCode::kTypeMismatch,
                             "[session] float32, float16, bfloat16, int64, int32 or bool, got {}{} (input={})",
                             type.code < std::size(kCodes) ? kCodes[type.code] : "type", type.bits, name));
}

}  // namespace

nb::dlpack::dtype dlpack_of(DType dtype) {
  return std::find_if(types().begin(), types().end(), [&](const Type& type) { return type.dtype == dtype; })->dlpack;
}

namespace {

// An array of floats, each rounded to bfloat16.
Array rounded(const nb::handle& object, std::string_view name) {
  const nb::object numpy = nb::module_::import_("numpy");
  Array floats;
  if (!nb::try_cast(numpy.attr("ascontiguousarray")(numpy.attr("asarray")(object), "float32"), floats))
    throw Exception(
        make_error(ErrorCode::kTypeMismatch, "[session] an array that NumPy converts, got another (input={})", name));
  auto bits = std::make_unique<uint16_t[]>(std::max<size_t>(floats.size(), 1));
  const auto* values = static_cast<const float*>(floats.data());
  std::transform(values, values + floats.size(), bits.get(), float_to_bfloat);
  std::vector<size_t> shape(floats.ndim());
  for (size_t i = 0; i < shape.size(); ++i) shape[i] = floats.shape(i);
  uint16_t* data = bits.release();
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint16_t*>(p); });
  return {data, shape.size(), shape.data(), owner, nullptr, dlpack(nb::dlpack::dtype_code::Bfloat, 16)};
}

}  // namespace

Array array_of(const nb::handle& object, std::string_view name, std::optional<DType> wanted) {
  Array array;
  if (!nb::try_cast(object, array))
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[session] an array of numbers on the CPU, got {} (input={})",
                               nb::cast<std::string>(nb::str(object.type().attr("__name__"))), name));
  if (wanted == DType::kBFloat16 && kind_of(array.dtype()) == NumberKind::kFloat) return rounded(object, name);
  if (!wanted || *wanted == DType::kBFloat16 || dlpack_of(*wanted) == array.dtype() ||
      kind_of(dlpack_of(*wanted)) != kind_of(array.dtype()) || kind_of(array.dtype()) == NumberKind::kOther)
    return array;
  const nb::object numpy = nb::module_::import_("numpy"), given = numpy.attr("asarray")(object),
                   converted = numpy.attr("ascontiguousarray")(given, std::string(program::name(*wanted)));
  const nb::object is_equal = numpy.attr("array_equal")(given, converted);
  if (kind_of(array.dtype()) == NumberKind::kInteger && PyObject_IsTrue(is_equal.ptr()) != 1)
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[session] values that {} has, got others of {} (input={})",
                               program::name(*wanted), nb::cast<std::string>(nb::object(given.attr("dtype").attr("name"))),
                               name));
  if (!nb::try_cast(converted, array))
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[session] an array that NumPy converts, got one of {} (input={})",
                               nb::cast<std::string>(nb::object(given.attr("dtype").attr("name"))), name));
  return array;
}

std::optional<DType> input_type(const program::Program& program, std::string_view name) {
  for (const program::ValueId id : program.inputs)
    if (program.value(id).name == name) return program.value(id).dtype;
  return std::nullopt;
}

std::optional<DType> input_type(const program::Program& program, size_t place) {
  if (place >= program.inputs.size()) return std::nullopt;
  return program.value(program.inputs[place]).dtype;
}

runtime::TensorView view_of(const Array& array, std::string_view name) {
  std::vector<int64_t> shape(array.ndim());
  for (size_t i = 0; i < shape.size(); ++i) shape[i] = static_cast<int64_t>(array.shape(i));
  return {std::move(shape), dtype_of(array, name), array.data()};
}

NamedArrays::NamedArrays(const nb::dict& inputs, const program::Program& program) {
  for (const auto& [name, value] : inputs) {
    names_.push_back(nb::cast<std::string>(name));
    arrays_.push_back(array_of(value, names_.back(), input_type(program, names_.back())));
  }
  for (size_t i = 0; i < names_.size(); ++i) views_.push_back({names_[i], view_of(arrays_[i], names_[i])});
}

}  // namespace bitlab::python
