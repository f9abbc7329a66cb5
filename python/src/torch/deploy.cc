// Capture, files, parity, comparison, fitting without training.
#include "bitlab/deploy/deploy.h"

#include "mirror.h"
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bitlab/convert/bit_model.h"
#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/post_training.h"
#include "bitlab/deploy/torch_formats.h"
#include "bitlab/deploy/torchscript/torchscript.h"
#include "bitlab/format/bit/bit.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using deploy::NamedTensors, deploy::Signature;

// An input's sizes: a number, or the name of a symbol and by how much it is multiplied.
using Sizes = std::vector<std::variant<int64_t, std::pair<std::string, int64_t>>>;
using Inputs = std::vector<std::tuple<std::string, std::string, Sizes>>;  // name, dtype, sizes
using Ranges = std::map<std::string, std::pair<int64_t, int64_t>>;

std::optional<Signature> signature_of(const std::optional<Inputs>& inputs, const Ranges& ranges) {
  if (!inputs) return std::nullopt;
  Signature signature;
  for (const auto& [name, dtype, sizes] : *inputs) {
    program::Port port{name, {program::parse_dtype(dtype).value(), {}}};
    for (const auto& size : sizes) {
      if (const auto* number = std::get_if<int64_t>(&size)) {
        port.type.shape.emplace_back(*number);
        continue;
      }
      const auto& [symbol, factor] = std::get<1>(size);
      const auto range = ranges.find(symbol);
      const auto [min, max] = range == ranges.end() ? std::pair<int64_t, int64_t>(1, program::kMaxElements) : range->second;
      port.type.shape.push_back(with_factor(signature.symbol(symbol, min, max), factor));
    }
    signature.inputs.push_back(std::move(port));
  }
  return signature;
}

deploy::Deployment save(const nb::object& module, const nb::object& forward, const nb::object& line,
                        const NamedTensors& example, const std::string& path, const std::optional<Inputs>& inputs,
                        const Ranges& ranges, const std::map<std::string, std::string>& metadata, const std::string& format,
                        const std::string& variant, const std::string& tokenizer) {
  const auto owner = module_of(module);
  const auto call = forward_of(forward);
  const auto line_of_call = text_of(line);
  const nb::gil_scoped_release no_gil;
  return deploy::save(*owner, call, example, path, {signature_of(inputs, ranges), metadata, line_of_call},
                      {format, variant, tokenizer})
      .value();
}

std::vector<deploy::NodeDifference> compare(const std::string& path, const nb::object& module, const nb::object& forward,
                                            const NamedTensors& example, const std::optional<Inputs>& inputs,
                                            const Ranges& ranges) {
  const auto owner = module_of(module);
  const auto call = forward_of(forward);
  const nb::gil_scoped_release no_gil;
  const program::Program program = format::bit::load(path).value();
  return deploy::compare_nodes(program, *owner, call, example, signature_of(inputs, ranges)).value();
}

// Its text, its buffers, and which of these are parameters.
std::tuple<std::string, NamedTensors, std::vector<std::string>> script_of(const std::string& path,
                                                                          const std::string& variant, bool trainable) {
  const nb::gil_scoped_release no_gil;
  deploy::Script script = deploy::to_script(format::bit::load(path).value(), variant, trainable).value();
  NamedTensors buffers;
  std::vector<std::string> parameters;
  for (const auto& buffer : script.buffers) {
    buffers.set(buffer.name, buffer.tensor);
    if (buffer.is_parameter) parameters.push_back(buffer.name);
  }
  return {std::move(script.source), std::move(buffers), std::move(parameters)};
}

deploy::PostTrainingReport fit_model(const std::shared_ptr<convert::BitModel>& model, const nb::object& forward,
                                     const std::vector<NamedTensors>& samples, const DeploymentConfig& config,
                                     const nb::object& evaluate) {
  const auto call = forward_of(forward);
  std::function<double()> measure;
  if (!evaluate.is_none()) measure = measure_of(evaluate);
  const nb::gil_scoped_release no_gil;
  return deploy::quantize_for_deployment(*model, call, samples, config, measure).value();
}

void bind_post_training(nb::module_& m) {
  using deploy::LayerFit, deploy::PostTrainingReport;
  nb::class_<LayerFit>(m, "LayerFit")
      .def_ro("name", &LayerFit::name)
      .def_ro("frozen", &LayerFit::frozen, "Whether codes and scales are its own now.")
      .def_ro("folded", &LayerFit::folded, "A BatchNorm went into it.")
      .def_ro("undone", &LayerFit::undone, "The fit made the network's outputs worse: as encoded again.")
      .def_ro("act_scale", &LayerFit::act_scale, "Of static activations.")
      .def_ro("error_before", &LayerFit::error_before)
      .def_ro("error_after", &LayerFit::error_after)
      .def_ro("output_error_before", &LayerFit::output_error_before, "Of the network, before this layer was fitted.")
      .def_ro("output_error_after", &LayerFit::output_error_after);
  nb::class_<PostTrainingReport>(m, "PostTrainingReport", "What fitting did with each layer, and to the network.")
      .def_ro("layers", &PostTrainingReport::layers, "In the order of execution.")
      .def_ro("unread", &PostTrainingReport::unread, "Ternary layers that no sample reaches.")
      .def_ro("output_error_encoded", &PostTrainingReport::output_error_encoded)
      .def_ro("output_error", &PostTrainingReport::output_error,
              "Of the network's outputs, relative to the float network's.")
      .def_ro("weight_file_bytes", &PostTrainingReport::weight_file_bytes)
      .def_ro("weight_bytes", &PostTrainingReport::weight_bytes)
      .def_ro("float32_weight_bytes", &PostTrainingReport::float32_weight_bytes)
      .def_ro("bits_a_weight", &PostTrainingReport::bits_a_weight)
      .def_ro("evaluated_float", &PostTrainingReport::evaluated_float)
      .def_ro("evaluated_before", &PostTrainingReport::evaluated_before)
      .def_ro("evaluated_after", &PostTrainingReport::evaluated_after);
}

}  // namespace

void bind_deploy(nb::module_& m) {
  deploy::register_formats();
  using deploy::Deployment, deploy::NodeDifference, deploy::Parity;
  nb::class_<Parity>(m, "Parity", "How close the runtime's outputs are to the module's on the example.")
      .def_ro("exact", &Parity::exact, "No node may round otherwise: the outputs are equal bit by bit.")
      .def_ro("max_difference", &Parity::max_difference, "Largest |module - runtime| of any output.")
      .def_ro("max_magnitude", &Parity::max_magnitude, "Largest |module|.")
      .def("__repr__", [](const Parity& p) {
        return fmt::format("Parity(exact={}, max_difference={}, max_magnitude={})", p.exact ? "True" : "False",
                           p.max_difference, p.max_magnitude);
      });
  nb::class_<Deployment>(m, "Deployment", "What was written.")
      .def_ro("file_bytes", &Deployment::file_bytes, "Of the whole file, or of all files.")
      .def_ro("weight_file_bytes", &Deployment::weight_file_bytes, "Of the weights in a .bit file.")
      .def_ro("weight_bytes", &Deployment::weight_bytes, "Of the weights in memory on this machine.")
      .def_ro("float32_weight_bytes", &Deployment::float32_weight_bytes, "Of the same weights as float32.")
      .def_ro("parity", &Deployment::parity)
      .def_ro("unread", &Deployment::unread, "Modules that the file leaves out, since eval does not read them.")
      .def("__repr__", [](const Deployment& d) {
        return fmt::format("Deployment(file_bytes={}, weight_bytes={}, float32_weight_bytes={}, exact={})", d.file_bytes,
                           d.weight_bytes, d.float32_weight_bytes, d.parity.exact ? "True" : "False");
      });
  nb::class_<NodeDifference>(m, "NodeDifference", "Where a program and its module part ways.")
      .def_ro("node", &NodeDifference::node)
      .def_ro("op", &NodeDifference::op)
      .def_ro("bounded", &NodeDifference::bounded, "The node may differ from LibTorch within rounding.")
      .def_ro("fed_exactly", &NodeDifference::fed_exactly, "Every node before it agreed.")
      .def_ro("count", &NodeDifference::count, "Values.")
      .def_ro("different", &NodeDifference::different, "Values that are not equal bit by bit.")
      .def_ro("max_difference", &NodeDifference::max_difference)
      .def_ro("max_magnitude", &NodeDifference::max_magnitude);
  bind_post_training(m);
  m.def("save", &save, nb::arg("module"), nb::arg("forward"), nb::arg("line"), nb::arg("example"), nb::arg("path"),
        nb::arg("inputs").none(), nb::arg("ranges"), nb::arg("metadata"), nb::arg("format"), nb::arg("variant"),
        nb::arg("tokenizer"));
  m.def("compare", &compare, nb::arg("path"), nb::arg("module"), nb::arg("forward"), nb::arg("example"),
        nb::arg("inputs").none(), nb::arg("ranges"));
  m.def("script_of", &script_of, nb::arg("path"), nb::arg("variant"), nb::arg("trainable"));
  m.def("fit_samples", &fit_model, nb::arg("model"), nb::arg("forward"), nb::arg("samples"), nb::arg("config"),
        nb::arg("evaluate").none());
}

}  // namespace bitlab::python
