// BitModel over a module of Python, what a conversion would do with one, sensitivity.
#include "mirror.h"
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "bitlab/convert/bit_model.h"
#include "bitlab/convert/sensitivity.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using convert::BitModel;

using Tags = std::map<std::string, std::string>;

std::shared_ptr<BitModel> make_model(const nb::object& module, const nb::object& forward, const MixedPrecisionConfig& config,
                                     const Tags& tags) {
  return std::make_shared<BitModel>(mirror_of(module), forward_of(forward), config, convert::ConvertOptions{tags});
}

// What conversion adds to a module: (name, tensor, whether it is a parameter), without the module's own.
std::vector<std::tuple<std::string, at::Tensor, bool>> added_state(BitModel& model) {
  std::vector<std::tuple<std::string, at::Tensor, bool>> state;
  constexpr std::string_view kAdded = "intercepted.";
  for (const auto& item : model.named_parameters())
    if (item.key().starts_with(kAdded)) state.emplace_back(item.key().substr(kAdded.size()), item.value(), true);
  for (const auto& item : model.named_buffers())
    if (item.key().starts_with(kAdded)) state.emplace_back(item.key().substr(kAdded.size()), item.value(), false);
  return state;
}

// A layer that rules make ternary, and how.
struct Planned {
  std::string path;  // of the layer, or of the parameter that is a weight
  BitQuantConfig quant;
  bool is_layer, is_master;
};

std::pair<convert::ConversionReport, std::vector<Planned>> plan(const nb::object& module, const MixedPrecisionConfig& config,
                                                                const Tags& tags) {
  auto conversion = convert::convert_module(*mirror_of(module), config, {tags}, convert::Outside::kListed).value();
  std::vector<Planned> planned;
  for (const convert::Interception& i : conversion.interceptions)
    planned.push_back({i.layer, i.quant, i.layer != i.path, i.is_master});
  return {std::move(conversion.report), std::move(planned)};
}

}  // namespace

void bind_convert(nb::module_& m) {
  using convert::ConversionReport, convert::LayerReport, convert::LayerSensitivity, convert::Sensitivity;
  nb::class_<LayerReport>(m, "LayerReport", "What a conversion did with a layer.")
      .def(
          "__init__",
          [](LayerReport* self, std::string path, std::string type, std::string_view action, std::string reason,
             std::string quant, int64_t parameters) {
            using convert::Action;
            for (const Action known :
                 {Action::kBuilt, Action::kReplaced, Action::kIntercepted, Action::kKept, Action::kSkipped})
              if (name(known) == action) {
                new (self)
                    LayerReport{std::move(path), std::move(type), known, std::move(reason), std::move(quant), parameters};
                return;
              }
            throw Exception(make_error(ErrorCode::kUnknownName, "[report] an action, got '{}'", action));
          },
          nb::arg("path"), nb::arg("type"), nb::arg("action"), nb::arg("reason"), nb::arg("quant") = "",
          nb::arg("parameters") = 0)
      .def_ro("path", &LayerReport::path)
      .def_ro("type", &LayerReport::type, "'linear', 'conv2d', 'embedding', 'parameter', …")
      .def_prop_ro(
          "action", [](const LayerReport& layer) { return name(layer.action); },
          "'replaced', 'intercepted', 'kept' or 'skipped'.")
      .def_ro("reason", &LayerReport::reason, "The rule that decided, or why nothing could be done.")
      .def_ro("quant", &LayerReport::quant, "'absmean/tensor/int8'; '' where it stays float.")
      .def_ro("parameters", &LayerReport::parameters);
  nb::class_<ConversionReport>(m, "ConversionReport", "What a conversion did with each layer, and why. str() is a table.")
      .def(nb::init<>())
      .def_rw("layers", &ConversionReport::layers, "In the order of registration.")
      .def_rw("unused_rules", &ConversionReport::unused_rules, "Rules that fitted no layer.")
      .def_prop_ro("parameters", &ConversionReport::parameters)
      .def_prop_ro("covered", &ConversionReport::covered, "Parameters of layers that became ternary.")
      .def("to_json", &ConversionReport::to_json)
      .def("__str__", &ConversionReport::to_text);
  nb::class_<Planned>(m, "Planned")
      .def_ro("path", &Planned::path)
      .def_ro("quant", &Planned::quant)
      .def_ro("is_layer", &Planned::is_layer)
      .def_ro("is_master", &Planned::is_master);
  m.def("plan", &plan, nb::arg("module"), nb::arg("config"), nb::arg("tags") = Tags{},
        "The report of a conversion, and the layers that it would make ternary.");

  nb::class_<BitModel>(m, "BitModel")
      .def(nb::new_(&make_model), nb::arg("module"), nb::arg("forward"), nb::arg("config"), nb::arg("tags") = Tags{})
      .def(
          "intercept", [](BitModel& model, const nb::object& call) { return model.intercept([&] { return call(); }); },
          nb::arg("call"), "What call() returns, with its products of registered weights ternary.")
      .def(
          "train",
          [](BitModel& model, bool on) {
            const nb::gil_scoped_release no_gil;
            model.train(on);
          },
          nb::arg("on"))
      .def_prop_ro("training", [](const BitModel& model) { return model.is_training(); })
      .def(
          "set_blend", [](BitModel& model, const nn::Blend& blend) { nn::set_blend(model, blend); }, nb::arg("blend"))
      .def("added_state", &added_state)
      .def("check_made_by_rules", [](const BitModel& model) { model.check_made_by_rules().value(); })
      .def_prop_ro("report", [](const BitModel& model) { return model.report(); })
      .def_prop_ro("config", [](const BitModel& model) { return model.config(); })
      .def(
          "save_to",
          [](const BitModel& model, const std::string& path) {
            const nb::gil_scoped_release no_gil;
            model.save_to(path).value();
          },
          nb::arg("path"))
      .def(
          "load_from",
          [](BitModel& model, const std::string& path) {
            const nb::gil_scoped_release no_gil;
            model.load_from(path).value();
          },
          nb::arg("path"));
  m.def(
      "saved_config", [](const std::string& path) { return BitModel::saved_config(path).value(); }, nb::arg("path"),
      "The rules that a file of BitModel.save() was made with.");

  nb::class_<LayerSensitivity>(m, "LayerSensitivity")
      .def_ro("path", &LayerSensitivity::path)
      .def_ro("parameters", &LayerSensitivity::parameters)
      .def_ro("loss", &LayerSensitivity::loss, "With this layer alone ternary.");
  nb::class_<Sensitivity>(m, "Sensitivity", "How much each layer suffers from being ternary.")
      .def_ro("float_loss", &Sensitivity::float_loss, "With no layer ternary.")
      .def_ro("ternary_loss", &Sensitivity::ternary_loss, "With all.")
      .def_ro("layers", &Sensitivity::layers)
      .def("propose_rules", &convert::propose_rules, nb::arg("budget"),
           "Rules that keep layers in float until the increases of the others sum up to `budget` or less.");
  m.def(
      "analyze",
      [](BitModel& model, const nb::object& loss) {
        const auto measure = measure_of(loss);
        const nb::gil_scoped_release no_gil;
        return convert::analyze(model, [&]() -> Result<double> { return measure(); }).value();
      },
      nb::arg("model"), nb::arg("loss"));
}

}  // namespace bitlab::python
