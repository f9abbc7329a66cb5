// Tensors between Python and C++: the same tensor, with its gradients, on both sides.
#pragma once

#include <nanobind/nanobind.h>

#include <torch/csrc/autograd/python_variable.h>

#include "bitlab/nn/named_tensors.h"

NAMESPACE_BEGIN(NB_NAMESPACE)
NAMESPACE_BEGIN(detail)

template <>
struct type_caster<at::Tensor> {
  NB_TYPE_CASTER(at::Tensor, const_name("torch.Tensor"))

  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    if (source.is_none()) return true;  // undefined
    if (!THPVariable_Check(source.ptr())) return false;
    value = THPVariable_Unpack(source.ptr());
    return true;
  }
  static handle from_cpp(const at::Tensor& tensor, rv_policy, cleanup_list*) noexcept {
    return THPVariable_Wrap(tensor);  // None for an undefined one
  }
};

// A dict of tensors in its order.
template <>
struct type_caster<bitlab::nn::NamedTensors> {
  NB_TYPE_CASTER(bitlab::nn::NamedTensors, const_name("dict[str, torch.Tensor]"))

  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    if (!PyDict_Check(source.ptr())) return false;
    PyObject *key = nullptr, *item = nullptr;
    Py_ssize_t position = 0;
    while (PyDict_Next(source.ptr(), &position, &key, &item)) {
      if (!PyUnicode_Check(key) || !THPVariable_Check(item)) return false;
      const char* name = PyUnicode_AsUTF8(key);
      if (name == nullptr) return PyErr_Clear(), false;
      value.set(name, THPVariable_Unpack(item));
    }
    return true;
  }
  static handle from_cpp(const bitlab::nn::NamedTensors& tensors, rv_policy, cleanup_list*) noexcept {
    dict result;
    for (const auto& [name, tensor] : tensors) result[str(name.c_str())] = steal(THPVariable_Wrap(tensor));
    return result.release();
  }
};

NAMESPACE_END(detail)
NAMESPACE_END(NB_NAMESPACE)
