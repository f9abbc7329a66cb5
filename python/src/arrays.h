// Arrays of NumPy, or of whatever speaks DLPack, as the tensors of a session.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/runtime/session.h"

namespace bitlab::python {

using Array = nanobind::ndarray<nanobind::ro, nanobind::c_contig, nanobind::device::cpu>;

// The type of an array's elements. NumPy has no bfloat16.
nanobind::dlpack::dtype dlpack_of(program::DType dtype);

// An input by its name, or place. An array of another type of the same kind, integers or floats, is converted to `wanted`, floats to bfloat16 as well. Throws TypeMismatch, for integers
// that it has not, too.
Array array_of(const nanobind::handle& object, std::string_view name, std::optional<program::DType> wanted);
// The type of an input by its name, or place; nothing where there is no such.
std::optional<program::DType> input_type(const program::Program& program, std::string_view name);
std::optional<program::DType> input_type(const program::Program& program, size_t place);
runtime::TensorView view_of(const Array& array, std::string_view name);

// Inputs by name, which are held as long as it lives.
class NamedArrays {
 public:
  NamedArrays(const nanobind::dict& inputs, const program::Program& program);
  NamedArrays(const NamedArrays&) = delete;
  std::span<const runtime::NamedView> views() const { return views_; }

 private:
  std::vector<std::string> names_;
  std::vector<Array> arrays_;
  std::vector<runtime::NamedView> views_;
};

}  // namespace bitlab::python
