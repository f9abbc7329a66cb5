#include "bindings.h"

namespace nb = nanobind;

namespace bitlab::python {

nn::Forward forward_of(const nb::object& function) {
  return [shared = Shared(function)](const nn::NamedTensors& inputs) {
    const nb::gil_scoped_acquire gil;
    return nb::cast<nn::NamedTensors>(shared.get()(nb::cast(inputs)));
  };
}

std::function<double()> measure_of(const nb::object& function) {
  return [shared = Shared(function)] {
    const nb::gil_scoped_acquire gil;
    return nb::cast<double>(nb::float_(shared.get()()));
  };
}

std::function<std::string()> text_of(const nb::object& function) {
  return [shared = Shared(function)] {
    const nb::gil_scoped_acquire gil;
    return nb::cast<std::string>(shared.get()());
  };
}

}  // namespace bitlab::python

NB_MODULE(_torch, m) {
  nb::set_leak_warnings(false);  // of what a program still has when it ends
  m.doc() = "The libraries of BitLab that need LibTorch; loading it registers torch.ops.bitlab.";
  nb::module_::import_("bitlab._core");  // whose classes and errors this module uses
  bitlab::python::bind_layers(m);
  bitlab::python::bind_convert(m);
  bitlab::python::bind_deploy(m);
  bitlab::python::bind_train(m);
}
