// Arrays of NumPy, or of whatever speaks DLPack, as the tensors of a session.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/runtime/session.h"

namespace bitlab::python {

using Array = nanobind::ndarray<nanobind::ro, nanobind::c_contig, nanobind::device::cpu>;

// The type of an array's elements. NumPy has no bfloat16: its bits, as uint16.
nanobind::dlpack::dtype dlpack_of(program::DType dtype);

// An input by its name, or place. Throws TypeMismatch.
Array array_of(const nanobind::handle& object, std::string_view name);
runtime::TensorView view_of(const Array& array, std::string_view name);

// Inputs by name, which are held as long as it lives.
class NamedArrays {
 public:
  explicit NamedArrays(const nanobind::dict& inputs);
  NamedArrays(const NamedArrays&) = delete;
  std::span<const runtime::NamedView> views() const { return views_; }

 private:
  std::vector<std::string> names_;
  std::vector<Array> arrays_;
  std::vector<runtime::NamedView> views_;
};

}  // namespace bitlab::python
