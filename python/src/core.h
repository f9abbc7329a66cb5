// What the extension module bitlab._core is made of: all that needs no LibTorch.
#pragma once

#include <nanobind/nanobind.h>

namespace bitlab::python {

void bind_errors(nanobind::module_& m);
void bind_configs(nanobind::module_& m);
void bind_data(nanobind::module_& m);
void bind_runtime(nanobind::module_& m);
void bind_profile(nanobind::module_& m);
void bind_formats(nanobind::module_& m);

}  // namespace bitlab::python
