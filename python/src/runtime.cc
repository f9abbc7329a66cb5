// Models and sessions over NumPy arrays, or whatever speaks DLPack.
#include "arrays.h"
#include "core.h"
#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/program/print.h"
#include "bitlab/runtime/model.h"
#include "bitlab/runtime/session.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using program::DType;
using runtime::Model;
using Result = nb::ndarray<nb::numpy>;

struct Port {
  std::string name, dtype;
  std::vector<std::variant<int64_t, std::string>> shape;
};

// NumPy has no bfloat16: the same values as float32.
std::unique_ptr<uint8_t[]> widened(const runtime::TensorView& view) {
  size_t count = 1;
  for (const int64_t size : view.shape) count *= static_cast<size_t>(size);
  auto bytes = std::make_unique<uint8_t[]>(std::max<size_t>(count, 1) * sizeof(float));
  const auto* values = static_cast<const uint16_t*>(view.data);
  for (size_t i = 0; i < count; ++i) {
    const float value = bfloat_to_float(values[i]);
    std::memcpy(bytes.get() + i * sizeof(float), &value, sizeof(float));
  }
  return bytes;
}

std::vector<Port> ports_of(const std::vector<program::Port>& ports, const program::Symbols& symbols) {
  std::vector<Port> list;
  for (const program::Port& port : ports) {
    Port entry{port.name, std::string(program::name(port.type.dtype)), {}};
    for (const program::Dim& dim : port.type.shape) {
      if (dim.is_number()) {
        entry.shape.emplace_back(dim.factor);
      } else {
        entry.shape.emplace_back(to_string(dim, symbols));
      }
    }
    list.push_back(std::move(entry));
  }
  return list;
}

// Whether a handler of Python's for a signal, that of Ctrl-C or another, raised an exception. They are called twenty times a second, so that Python's
// lock is seldom taken.
class Signals {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return false;
    next_ = now + std::chrono::milliseconds(50);
    const nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }

 private:
  std::chrono::steady_clock::time_point next_{};
};

// A session that threads may share: one runs, the others wait.
class Session {
 public:
  Session(std::shared_ptr<const Model> model, int threads, const std::string& device)
      : model_(model),
        session_(runtime::Session::create(std::move(model),
                                          {.threads = threads, .trace = {}, .abort = Signals(), .device = device})
                     .value()) {}

  nb::dict run(const nb::handle& self, const nb::dict& inputs, bool copy) {
    const NamedArrays arrays(inputs, model_->program());
    return call(self, copy, [&] { return session_->run(arrays.views()); });
  }

  nb::object in_order(const nb::handle& self, const nb::args& inputs, bool copy) {
    std::vector<Array> arrays;
    std::vector<runtime::TensorView> views;
    for (const auto& input : inputs) {
      const std::string place = std::to_string(arrays.size());
      arrays.push_back(array_of(input, place, input_type(model_->program(), arrays.size())));
      views.push_back(view_of(arrays.back(), place));
    }
    nb::dict outputs = call(self, copy, [&] { return session_->run(std::span<const runtime::TensorView>(views)); });
    nb::tuple values(outputs.values());
    return values.size() == 1 ? nb::object(values[0]) : nb::object(std::move(values));
  }

  const std::shared_ptr<const Model>& model() const { return model_; }
  runtime::Session& session() { return *session_; }
  // f of the session while no other thread runs it.
  template <class F>
  auto locked(F f) {
    const nb::gil_scoped_release no_gil;
    const std::lock_guard lock(mutex_);
    return f(*session_);
  }

 private:
  template <class Run>
  nb::dict call(const nb::handle& self, bool copy, Run run) {
    struct Output {
      const void* data;
      std::vector<size_t> shape;
      DType dtype;
      std::unique_ptr<uint8_t[]> own;
    };
    std::vector<Output> outputs;
    {
      const nb::gil_scoped_release no_gil;
      const std::lock_guard lock(mutex_);
      const auto results = run();
      if (!results.ok() && results.error().code == ErrorCode::kCancelled) {
        const nb::gil_scoped_acquire gil;
        throw nb::python_error();  // the handler's
      }
      for (const runtime::TensorView& view : results.value()) {
        Output& output =
            outputs.emplace_back(Output{view.data, {view.shape.begin(), view.shape.end()}, view.dtype, nullptr});
        if (view.dtype == DType::kBFloat16) {
          output.own = widened(view);
          output.data = output.own.get();
          output.dtype = DType::kFloat32;
        }
        if (!copy || output.own) continue;
        auto bytes = static_cast<size_t>(program::size_of(view.dtype));
        for (const size_t size : output.shape) bytes *= size;
        output.own = std::make_unique<uint8_t[]>(std::max<size_t>(bytes, 1));
        if (bytes != 0) std::memcpy(output.own.get(), view.data, bytes);
        output.data = output.own.get();
      }
    }
    nb::dict arrays;
    const auto& ports = model_->program().outputs;
    for (size_t i = 0; i < outputs.size(); ++i) {
      Output& output = outputs[i];
      // The owner of a copy is its memory; of a view the session.
      nb::object owner = nb::borrow(self);
      if (output.own) {
        void* data = output.own.release();
        owner = nb::capsule(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
      }
      arrays[ports[i].name.c_str()] = nb::cast(Result(const_cast<void*>(output.data), output.shape.size(),
                                                      output.shape.data(), owner, nullptr, dlpack_of(output.dtype)),
                                               nb::rv_policy::reference);
    }
    return arrays;
  }

  std::mutex mutex_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<runtime::Session> session_;
};

std::shared_ptr<const Model> load(const std::filesystem::path& path) {
  const nb::gil_scoped_release no_gil;
  return Model::load(path).value();
}

}  // namespace

void bind_runtime(nb::module_& m) {
  nb::class_<Port>(m, "Port", "An input or an output of a model.")
      .def_ro("name", &Port::name)
      .def_ro("dtype", &Port::dtype, "'float32', 'int64', …")
      .def_ro("shape", &Port::shape, "Sizes: numbers, or texts such as 'batch' where they differ from run to run.")
      .def("__repr__", [](const nb::handle& self) {
        return nb::str("Port(name={!r}, dtype={!r}, shape={!r})")
            .attr("format")(self.attr("name"), self.attr("dtype"), self.attr("shape"));
      });
  nb::class_<Model>(m, "Model", "A loaded network. Immutable: any number of sessions share one.")
      .def_static("load", &load, nb::arg("path"), "Reads a .bit file.")
      .def_static(
          "from_bytes",
          [](const nb::bytes& bytes) {
            const auto* data = static_cast<const uint8_t*>(bytes.data());
            return Model::load_memory({data, bytes.size()}).value();
          },
          nb::arg("data"), "The same from the bytes of one, which are copied.")
      .def_prop_ro("inputs",
                   [](const Model& model) { return ports_of(model.program().signature().inputs, model.program().symbols); })
      .def_prop_ro("outputs",
                   [](const Model& model) { return ports_of(model.program().signature().outputs, model.program().symbols); })
      .def_prop_ro(
          "symbols",
          [](const Model& model) {
            std::map<std::string, std::pair<int64_t, int64_t>> ranges;
            for (const program::Symbol& symbol : model.program().symbols) ranges[symbol.name] = {symbol.min, symbol.max};
            return ranges;
          },
          "Sizes that differ from run to run: the smallest and the largest of each.")
      .def_prop_ro(
          "metadata", [](const Model& model) { return model.program().metadata; }, "Texts that the file carries.")
      .def_prop_ro("weight_bytes", &Model::weight_bytes, "Bytes of the weights in memory.")
      .def_prop_ro("float32_weight_bytes", &Model::float32_weight_bytes, "Bytes of the same weights as float32.")
      .def_prop_ro(
          "is_exact", [](const Model& model) { return model.program().is_exact(); },
          "Whether every node gives the same bits as LibTorch in eval.")
      .def("__repr__", [](const Model& model) { return "Model" + to_string(model.program().signature()); })
      .def("__str__", [](const Model& model) { return program::print(model.program()); });
  nb::class_<Session>(
      m, "Session",
      "Runs a model, without Python's lock; Ctrl-C ends a run. Results do not depend on the machine, on `threads` or on how "
      "samples are split into batches.")
      .def(nb::init<std::shared_ptr<const Model>, int, const std::string&>(), nb::arg("model"), nb::arg("threads") = 1,
           nb::arg("device") = "",
           "threads: 0 for all cores. device: 'cpu', 'cuda' or 'cuda:1', which gives the same bits; '': what the "
           "environment variable "
           "BITLAB_DEVICE says, else the CPU.")
      .def(
          "__init__",
          [](Session* self, const std::filesystem::path& path, int threads, const std::string& device) {
            new (self) Session(load(path), threads, device);
          },
          nb::arg("path"), nb::arg("threads") = 1, nb::arg("device") = "")
      .def(
          "run",
          [](const nb::handle& self, const nb::dict& inputs, bool copy) {
            return nb::cast<Session&>(self).run(self, inputs, copy);
          },
          nb::arg("inputs"), nb::kw_only(), nb::arg("copy") = true,
          nb::sig("def run(self, inputs: dict[str, typing.Any], *, copy: bool = True) -> dict[str, numpy.ndarray]"),
          "Outputs by name, for inputs by name: NumPy arrays, or others on the CPU that speak DLPack. Contiguous ones are "
          "not "
          "copied. With copy=False outputs are the session's memory, which its next run writes. What is bfloat16, a type "
          "that "
          "NumPy has not, comes out as float32 of the same values, and arrays of floats are rounded to it.")
      .def(
          "__call__",
          [](const nb::handle& self, const nb::args& inputs) {
            return nb::cast<Session&>(self).in_order(self, inputs, true);
          },
          nb::sig("def __call__(self, *inputs: typing.Any) -> typing.Any"),
          "The output for inputs in the model's order; a tuple where there are several outputs.")
      .def_prop_ro(
          "model", [](const Session& s) { return s.model(); }, "The model that it runs.")
      .def_prop_ro("device", [](Session& s) { return s.session().device(); })
      .def_prop_ro("threads", [](Session& s) { return s.session().threads(); })
      .def_prop_ro(
          "position", [](Session& s) { return s.locked([](auto& session) { return session.position(); }); },
          "Tokens that the model's states hold.")
      .def_prop_ro("max_position", [](Session& s) { return s.session().max_position(); })
      .def(
          "reset",
          [](Session& s) {
            s.locked([](auto& session) {
              session.reset();
              return 0;
            });
          },
          "Forgets all tokens.")
      .def(
          "truncate",
          [](Session& s, int64_t length) {
            s.locked([&](auto& session) {
              session.truncate(length).value();
              return 0;
            });
          },
          nb::arg("length"), "Forgets all but the first tokens.")
      .def_prop_ro(
          "arena_bytes", [](Session& s) { return s.locked([](auto& x) { return x.arena_bytes(); }); },
          "Memory of activations.");
}

}  // namespace bitlab::python
