// Sinks of training's events: BitLab's files, and objects of Python.
#include "sinks.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using train::Event, train::EventPosition, train::Sink;

// An object with write(event), and begin(position) where it wants to know.
class PythonSink final : public Sink {
 public:
  explicit PythonSink(const nb::object& sink) : sink_(sink) {}
  Status begin(const EventPosition& position) override {
    const nb::gil_scoped_acquire gil;
    if (nb::hasattr(sink_.get(), "begin")) sink_.get().attr("begin")(nb::cast(position));
    return {};
  }
  Status write(const Event& event) override {
    const nb::gil_scoped_acquire gil;
    sink_.get().attr("write")(nb::cast(event));
    return {};
  }

 private:
  Shared sink_;
};

nb::dict tagged(const Event& event) {
  nb::dict numbers;
  for (const train::Metric& number : event.numbers) numbers[train::tag_of(event.kind, number.name).c_str()] = number.value;
  return numbers;
}

}  // namespace

nb::dict dict_of(const std::vector<train::Metric>& metrics) {
  nb::dict dict;
  for (const train::Metric& metric : metrics) dict[metric.name.c_str()] = metric.value;
  return dict;
}

std::vector<std::shared_ptr<train::Sink>> sinks_of(const nb::list& objects) {
  std::vector<std::shared_ptr<Sink>> sinks;
  for (const nb::handle object : objects)
    sinks.push_back(nb::isinstance<Sink>(object) ? nb::cast<std::shared_ptr<Sink>>(object)
                                                 : std::make_shared<PythonSink>(nb::borrow(object)));
  return sinks;
}

void bind_sinks(nb::module_& m) {
  nb::class_<Event>(m, "Event", "What happened in training, with numbers by name.")
      .def_prop_ro(
          "kind", [](const Event& event) { return std::string(train::name(event.kind)); }, "step, evaluation, epoch or end.")
      .def_ro("step", &Event::step, "Batches since training began, from 1.")
      .def_ro("steps", &Event::steps, "Those of the whole training.")
      .def_ro("epoch", &Event::epoch, "From 1.")
      .def_ro("epochs", &Event::epochs)
      .def_prop_ro("numbers", [](const Event& event) { return dict_of(event.numbers); })
      .def_prop_ro("tags", &tagged, "The numbers by the names that TensorBoard has: train/loss, validation/accuracy.");
  nb::class_<EventPosition>(m, "EventPosition", "Where a training stands that begins, or goes on from a checkpoint.")
      .def_ro("step", &EventPosition::step, "Batches that were trained on.")
      .def_ro("epochs", &EventPosition::epochs, "Epochs that are over.")
      .def_ro("seconds", &EventPosition::seconds, "Of training.");
  nb::class_<Sink>(m, "Sink",
                   "Where events go. Any object with write(event), and begin(position) if it likes, is one, too.");
  m.def("json_lines", &train::json_lines, nb::arg("path"), nb::arg("every") = 1,
        "A file with an object a line; of the steps every `every`th.");
  m.def("csv", &train::csv, nb::arg("path"), nb::arg("every") = 1, "A table with a line an event.");
  m.def("tensorboard", &train::tensorboard, nb::arg("folder"), nb::arg("every") = 1,
        "An event file in the folder, which TensorBoard reads.");
}

}  // namespace bitlab::python
