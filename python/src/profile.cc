// Profiles of a model's runs.
#include "arrays.h"
#include "core.h"
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bitlab/profile/profiler.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

profile::Profile take_profile(const std::shared_ptr<const runtime::Model>& model, const nb::dict& inputs,
                              const profile::ProfileOptions& options) {
  const NamedArrays arrays(inputs, model->program());
  const nb::gil_scoped_release no_gil;
  return profile::profile(model, arrays.views(), options).value();
}

}  // namespace

void bind_profile(nb::module_& m) {
  using profile::Profile;
  nb::class_<Profile>(m, "Profile", "Where the time and the memory of a model's runs went, or of steps of its training.")
      .def_static(
          "take",
          [](const std::shared_ptr<const runtime::Model>& model, const nb::dict& inputs, std::string name, int64_t runs,
             int64_t warmup, int threads, bool roofs, const std::string& device) {
            Profile taken = take_profile(
                model, inputs, {.threads = threads, .runs = runs, .warmup = warmup, .roofs = roofs, .device = device});
            taken.model = std::move(name);
            return taken;
          },
          nb::arg("model"), nb::arg("inputs"), nb::arg("name") = "", nb::arg("runs") = 20, nb::arg("warmup") = 3,
          nb::arg("threads") = 1, nb::arg("roofs") = true, nb::arg("device") = "",
          nb::sig("def take(model: Model, inputs: dict[str, typing.Any], name: str = '', runs: int = 20, warmup: int = 3, "
                  "threads: int = 1, roofs: bool = True, device: str = '') -> Profile"),
          "Runs a model on inputs by name: what bitlab.profile() does.")
      .def_rw("model", &Profile::model, "The file, where it was named.")
      .def(
          "to_dict", [](const Profile& p) { return nb::module_::import_("json").attr("loads")(p.json()); },
          nb::sig("def to_dict(self) -> dict[str, typing.Any]"),
          "The report: 'run', 'nodes' in their order with times, MACs, bytes and kernels, 'memory', 'roofs'. Of training: "
          "'step', "
          "'phases', 'layers', 'memory'.")
      .def("table", &Profile::table, "Steps by time, and a line each on the runs, memory and roofs.")
      .def("json", &Profile::json, "The text of to_dict().")
      .def("chrome_trace", &Profile::chrome_trace,
           "JSON with each step of each run, for ui.perfetto.dev or chrome://tracing.")
      .def("html", &Profile::html, "One page that needs nothing else: the roofline, times by step, memory.")
      .def(
          "memory_table", [](const Profile& p) { return p.memory.table(); },
          "Bytes that live at each step, and its scratch.")
      .def("__str__", &Profile::table);
}

}  // namespace bitlab::python
