// Files of programs in any format.
#include "bitlab/format/formats.h"

#include "core.h"
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace bitlab::python {

void bind_formats(nb::module_& m) {
  using format::Conversion, format::FormatInfo;
  nb::class_<FormatInfo>(m, "Format", "A kind of file that holds a network.")
      .def_ro("name", &FormatInfo::name)
      .def_ro("extension", &FormatInfo::extension, "Of the path.")
      .def_prop_ro(
          "variants", [](const FormatInfo& info) { return nb::str(std::string(info.variants).c_str()).attr("split")(); },
          nb::sig("def variants(self) -> list[str]"), "How it keeps a network; the first is taken unasked.")
      .def_ro("summary", &FormatInfo::summary)
      .def("__repr__", [](const FormatInfo& f) { return fmt::format("Format({}, '{}')", f.name, f.extension); });
  nb::class_<Conversion>(m, "Conversion", "What convert() has written.")
      .def_prop_ro("files", [](const Conversion& c) { return c.saved.files; })
      .def_prop_ro(
          "file_bytes", [](const Conversion& c) { return c.saved.bytes; }, "Of all files.")
      .def_ro("source_bytes", &Conversion::source_bytes, "Of what was read.")
      .def_ro("weights", &Conversion::weights, "Float32 numbers that the network has, however they are stored.")
      .def_prop_ro(
          "bits_a_weight",
          [](const Conversion& c) { return 8.0 * static_cast<double>(c.saved.bytes) / static_cast<double>(c.weights); })
      .def("__repr__", [](const Conversion& c) {
        return fmt::format("Conversion(files={}, file_bytes={}, source_bytes={})", c.saved.files.size(), c.saved.bytes,
                           c.source_bytes);
      });
  m.def("format_list", &format::format_list);
  m.def(
      "convert_file",
      [](const std::filesystem::path& source, const std::filesystem::path& target, const std::string& format,
         const std::string& variant) {
        const nb::gil_scoped_release no_gil;
        return format::convert(source, target, {format, variant}).value();
      },
      nb::arg("source"), nb::arg("target"), nb::arg("format"), nb::arg("variant"));
}

}  // namespace bitlab::python
