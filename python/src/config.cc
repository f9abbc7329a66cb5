// The configs as classes of Python, made from what visit() lists: fields, help, types, and the errors of files.
#include "core.h"
#include <algorithm>
#include <nanobind/operators.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>
#include <set>

#include "bitlab/base/match.h"
#include "bitlab/config/document.h"
#include "bitlab/config/io.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

nb::object to_python(const config::Value& value) {
  return std::visit(Match{[](const config::Choice& choice) { return nb::cast(choice.get()); },
                          [](const config::List& list) -> nb::object {
                            nb::list items;
                            for (size_t i = 0; i < list.size(); ++i) items.append(to_python(list.value(i)));
                            return items;
                          },
                          [](const config::Table& table) -> nb::object {
                            nb::dict fields;
                            for (const config::Field& field : table()) fields[field.name.c_str()] = to_python(field.value);
                            return fields;
                          },
                          [](const auto* plain) { return nb::cast(*plain); }},
                    value.at);
}

const char* type_of(const config::Value& value) {
  return std::visit(Match{[](const bool*) { return "bool"; }, [](const int64_t*) { return "int"; },
                          [](const double*) { return "float"; }, [](const std::string*) { return "str"; },
                          [](const Overrides*) { return "dict[str, str]"; }, [](const config::Choice&) { return "str"; },
                          [](const config::List&) { return "list"; }, [](const config::Table&) { return "dict"; }},
                    value.at);
}

// Text that lives as long as the interpreter: signatures of nanobind are not copied.
const char* kept(std::string text) { return (new std::string(std::move(text)))->c_str(); }

nb::object json() { return nb::module_::import_("json"); }

// Values of Python as in a file, so that both have one set of rules and errors. Configs among them are their fields.
void read(const config::Table& table, const nb::object& values) {
  const nb::object plain = nb::cpp_function([](const nb::object& value) -> nb::object {
    if (nb::hasattr(value, "to_dict")) return value.attr("to_dict")();
    if (nb::hasattr(value, "__fspath__")) return value.attr("__fspath__")();
    return nb::str(value);
  });
  const auto text = nb::cast<std::string>(json().attr("dumps")(values, nb::arg("default") = plain));
  config::read_json(text, table).value();
}

template <config::Config C>
C from_dict(const nb::dict& values) {
  C config;
  read(config::table_of(config), values);
  return config;
}

template <config::Config C>
nb::dict to_dict(C& config) {
  return nb::cast<nb::dict>(to_python({config::table_of(config)}));
}

template <config::Config C>
std::string repr(const char* name, C& config) {
  std::string text = std::string(name) + '(';
  for (const auto& [key, value] : to_dict(config))
    text += (text.back() == '(' ? "" : ", ") + nb::cast<std::string>(key) + '=' + nb::cast<std::string>(nb::repr(value));
  return text + ')';
}

template <config::Config C>
void bind_field(nb::class_<C>& c, const config::Field& field) {
  const char* type = type_of(field.value);
  c.def_prop_rw(
      field.name.c_str(),
      [name = field.name](C& config) {
        for (const config::Field& f : config::table_of(config)())
          if (f.name == name) return to_python(f.value);
        return nb::object();
      },
      [name = field.name](C& config, const nb::object& value) {
        nb::dict values;
        values[name.c_str()] = value;
        read(config::table_of(config), values);
      },
      kept(field.help), nb::for_getter(nb::sig(kept("def " + field.name + "(self) -> " + type))),
      nb::for_setter(nb::arg().none()),
      nb::for_setter(nb::sig(kept("def " + field.name + "(self, value: " + type + ", /) -> None"))));
}

// `own`: fields that the caller binds with a type of their own.
template <config::Config C>
nb::class_<C> bind_config(nb::module_& m, const char* name, const char* doc, const std::set<std::string>& own = {}) {
  nb::class_<C> c(m, name, doc);
  C defaults;
  for (const config::Field& field : config::table_of(defaults)())
    if (!own.contains(field.name)) bind_field(c, field);
  c.def(
      "__init__", [](C* self, const nb::kwargs& fields) { new (self) C(from_dict<C>(fields)); },
      "The defaults, but for the fields that are given.");
  c.def_static("from_dict", &from_dict<C>, nb::arg("fields"), "Fields by name; others keep their defaults.");
  c.def_static(
      "from_json", [](std::string_view text) { return config::from_json<C>(text).value(); }, nb::arg("text"));
  c.def_static(
      "from_yaml", [](std::string_view text) { return config::from_yaml<C>(text).value(); }, nb::arg("text"));
  c.def_static(
      "load", [](const std::filesystem::path& path) { return config::load<C>(path).value(); }, nb::arg("path"),
      "Reads a .json, .yaml or .yml file.");
  c.def_static(
      "schema", [name] { return config::schema(C(), name); }, "A JSON schema of its files, as text.");
  c.def(
      "example", [](const C& config) { return config::example(config, ""); },
      "A commented YAML file with every field, its help, type and value.");
  c.def("to_dict", &to_dict<C>);
  c.def("to_json", [](C& config) { return config::to_json(config); });
  c.def("to_yaml", [](C& config) { return config::to_yaml(config); });
  c.def(
      "save", [](const C& config, const std::filesystem::path& path) { config::save(config, path).value(); },
      nb::arg("path"), "Writes a .json, .yaml or .yml file, whole or not at all.");
  c.def(
      "replace",
      [](C config, const nb::kwargs& fields) {
        read(config::table_of(config), fields);
        return config;
      },
      "A copy with other values for the fields that are given.");
  c.def("__repr__", [name](C& config) { return repr(name, config); });
  c.def(
      "__eq__", [](const C& a, const C& b) { return config::equal(a, b); }, nb::is_operator());
  c.def("__getstate__", [](C& config) { return config::to_json(config); });
  c.def("__setstate__", [](C& config, const std::string& text) { new (&config) C(config::from_json<C>(text).value()); });
  return c;
}

}  // namespace

void bind_configs(nb::module_& m) {
  bind_config<BitQuantConfig>(m, "BitQuantConfig", "How the layers of a model are quantized.")
      .def_static("none", &BitQuantConfig::none, "Layers stay float.")
      .def_static("int8", &BitQuantConfig::int8, "A layer that is kept in 8 bits.")
      .def_static("for_mobile", &BitQuantConfig::for_mobile,
                  "Learned scales by channel, and static steps of activations: small and quick.")
      .def_static("for_server", &BitQuantConfig::for_server,
                  "A scale for each 128 weights of a row, and dynamic activations: for wide layers.")
      .def_static("for_research", &BitQuantConfig::for_research, "BitNet b1.58 as it is published.")
      .def_prop_ro("enabled", &BitQuantConfig::enabled, "Whether layers are quantized at all.")
      .def(
          "weight_spec",
          [](const BitQuantConfig& quant, int64_t draw) {
            ternary::WeightSpec spec = quant.weight_spec();
            spec.draw = draw;
            return to_text(spec);
          },
          nb::arg("draw") = 0, "The weight's part as the operators take it.");
  bind_config<QuantRule>(m, "QuantRule", "Which layers a rule is about, and what they become.")
      .def_static("in_float", &QuantRule::in_float, "What `quant` is for a layer that stays float.")
      .def_static("in_int8", &QuantRule::in_int8, "What `quant` is for a layer in 8 bits by channel.");
  bind_config<MixedPrecisionConfig>(m, "MixedPrecisionConfig",
                                    "A quantization for all layers, and rules for those that differ.", {"rules"})
      .def_rw("quant", &MixedPrecisionConfig::quant)
      .def_rw("rules", &MixedPrecisionConfig::rules,
              "Rules, the first that fits decides. Assign a list: its items are copies.");
  bind_config<AugmentConfig>(m, "AugmentConfig", "Random changes of training pictures.");
  bind_config<DataConfig>(m, "DataConfig", "Which data to train and evaluate on.", {"augment"})
      .def_rw("augment", &DataConfig::augment, "Random changes of training samples.");
  bind_config<ParameterRule>(m, "ParameterRule", "Parameters that the optimizer treats in a way of their own.");
  bind_config<FeatureLayer>(m, "FeatureLayer", "Layers, and the teacher's whose outputs theirs are to resemble.");
  bind_config<TrainingConfig>(m, "TrainingConfig", "How to train.", {"parameters", "feature_layers"})
      .def_rw("feature_layers", &TrainingConfig::feature_layers,
              "Layers whose outputs resemble the teacher's. Assign a list: its items are copies.")
      .def_rw("parameters", &TrainingConfig::parameters,
              "Rules for parameters that differ, the first that fits decides. Assign a list: its items are copies.");
  bind_config<LogConfig>(m, "LogConfig", "What a training run writes down as it goes.");
  bind_config<DeploymentConfig>(m, "DeploymentConfig", "How a float network is fitted to ternary codes without training.");
}

}  // namespace bitlab::python
