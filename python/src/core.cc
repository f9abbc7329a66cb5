#include "core.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bitlab/base/machine.h"
#include "bitlab/base/version.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // of what a program still has when it ends
  m.doc() = "The libraries of BitLab that need no LibTorch.";
  bitlab::python::bind_errors(m);
  bitlab::python::bind_configs(m);
  bitlab::python::bind_data(m);
  bitlab::python::bind_runtime(m);
  bitlab::python::bind_profile(m);
  bitlab::python::bind_formats(m);
  m.def("version", &bitlab::version, "The version, from the git tag: '0.1.0'.");
  m.def("build_facts", &bitlab::build_facts, "Compiler, build type and architecture.");
  m.def(
      "cpu",
      [] {
        const bitlab::Machine& machine = bitlab::this_machine();
        return machine.cpu + ": " + machine.features.to_string();
      },
      "This machine's processor, and its features that kernels know.");
}
