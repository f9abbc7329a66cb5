// Files of programs in any format.
#include "bitlab/format/formats.h"

#include "core.h"
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "bitlab/runtime/compare.h"

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
  using runtime::Comparison, runtime::OutputDifference;
  nb::class_<OutputDifference>(m, "OutputDifference", "How far an output of one network is from that of another.")
      .def_ro("name", &OutputDifference::name)
      .def_ro("count", &OutputDifference::count, "Of values.")
      .def_ro("different", &OutputDifference::different, "Of them not equal bit by bit.")
      .def_ro("largest", &OutputDifference::largest, "Difference.")
      .def_ro("magnitude", &OutputDifference::magnitude, "Largest value.");
  nb::class_<Comparison>(m, "Comparison", "What verify() has found.")
      .def_ro("signature", &Comparison::signature, "How inputs and outputs differ; empty where they do not.")
      .def_ro("weight", &Comparison::weight, "The first tensor that differs, and how; empty where none does.")
      .def_ro("weights", &Comparison::weights, "Largest difference of float weights.")
      .def_ro("node", &Comparison::node, "The first node that is another one, which alone makes no difference.")
      .def_ro("outputs", &Comparison::outputs)
      .def("is_equal", &Comparison::is_equal, nb::arg("tolerance") = 0.0,
           "Whether all is the same, outputs up to a part of their largest value.")
      .def("first", &Comparison::first, nb::arg("tolerance") = 0.0, "The first difference, as a sentence.")
      .def("__repr__", [](const Comparison& c) {
        return c.is_equal() ? std::string("Comparison(equal)") : fmt::format("Comparison({})", c.first());
      });
  m.def(
      "verify_files",
      [](const std::filesystem::path& a, const std::filesystem::path& b, int64_t samples, uint32_t seed,
         const std::map<std::string, int64_t>& sizes) {
        const nb::gil_scoped_release no_gil;
        const auto load = [](const std::filesystem::path& path) {
          return format::read(format::format_of(path).value(), path).value();
        };
        return runtime::compare(load(a), load(b), {samples, seed, {sizes.begin(), sizes.end()}}).value();
      },
      nb::arg("a"), nb::arg("b"), nb::arg("samples"), nb::arg("seed"), nb::arg("sizes"));
  m.def("format_list", &format::format_list);
  m.def(
      "convert_file",
      [](const std::filesystem::path& source, const std::filesystem::path& target, const std::string& format,
         const std::string& variant, const std::string& tokenizer) {
        const nb::gil_scoped_release no_gil;
        return format::convert(source, target, {format, variant, tokenizer}).value();
      },
      nb::arg("source"), nb::arg("target"), nb::arg("format"), nb::arg("variant"), nb::arg("tokenizer"));
}

}  // namespace bitlab::python
