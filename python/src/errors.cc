// bitlab.Error and a class for each row of errors.def, which is also what Python calls such a mistake: a ValueError, an OSError, …
#include "core.h"
#include <array>
#include <cstring>

#include "bitlab/base/result.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

struct Kind {
  const char* name;
  ErrorCode code;
};

constexpr Kind kKinds[] = {
#define BITLAB_ERROR(code, group, meaning) {#code, ErrorCode::k##code},
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};

// Of the interpreter, never freed: exceptions may be translated while it shuts down.
std::array<PyObject*, std::size(kKinds)> classes;

PyObject* builtin_of(ErrorCode code) {
  if (code == ErrorCode::kNotFound) return PyExc_FileNotFoundError;
  if (code == ErrorCode::kTypeMismatch) return PyExc_TypeError;
  if (code == ErrorCode::kOutOfMemory) return PyExc_MemoryError;
  switch (error_group(code)) {
    case ErrorGroup::kInput:
      return PyExc_ValueError;
    case ErrorGroup::kFile:
      return PyExc_OSError;
    case ErrorGroup::kCapability:
      return PyExc_NotImplementedError;
    case ErrorGroup::kDifference:
    case ErrorGroup::kInternal:
    case ErrorGroup::kStopped:
      break;
  }
  return nullptr;
}

}  // namespace

void bind_errors(nb::module_& m) {
  // What crosses LibTorch's dispatcher arrives as a RuntimeError: so the base is one.
  PyObject* base = PyErr_NewExceptionWithDoc(
      "bitlab.Error", "What every error of BitLab is. The message says what was expected and what was found.",
      PyExc_RuntimeError, nullptr);
  m.attr("Error") = nb::handle(base);
  for (const Kind& kind : kKinds) {
    PyObject* builtin = builtin_of(kind.code);
    // A builtin that is a RuntimeError by itself comes behind the base, as Python orders bases.
    const nb::object bases =
        builtin == nullptr ? nb::make_tuple(nb::handle(base)) : nb::make_tuple(nb::handle(base), nb::handle(builtin));
    const std::string name = std::string("bitlab.") + kind.name,
                      doc = "Says that " + std::string(error_meaning(kind.code)) + '.';
    PyObject* type = PyErr_NewExceptionWithDoc(name.c_str(), doc.c_str(), bases.ptr(), nullptr);
    if (type == nullptr) nb::raise_python_error();
    classes[static_cast<size_t>(kind.code)] = type;
    m.attr(kind.name) = nb::handle(type);
  }
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Exception& error) {
      // Paths may hold bytes that are no UTF-8, and so may what a file says.
      const nb::object text =
          nb::steal(PyUnicode_DecodeUTF8(error.what(), static_cast<Py_ssize_t>(std::strlen(error.what())), "replace"));
      PyErr_SetObject(classes[static_cast<size_t>(error.code())], text.ptr());
    }
  });
}

}  // namespace bitlab::python
