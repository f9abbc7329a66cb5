// Files of other formats.
#include "bitlab/format/formats.h"

#include "core.h"
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;

namespace bitlab::python {

void bind_formats(nb::module_& m) {
  m.def(
      "convert_file",
      [](const std::filesystem::path& source, const std::filesystem::path& target, std::string variant) {
        const nb::gil_scoped_release no_gil;
        const auto name = format::format_of(source).value();
        format::save(format::read(name, source).value(), target, {.variant = std::move(variant)}).value();
      },
      nb::arg("source"), nb::arg("target"), nb::arg("variant") = "",
      "Reads a network in the format that the name of a file or folder ends with, and writes it in that of another: .bit, "
      ".gguf, .hf.");
}

}  // namespace bitlab::python
