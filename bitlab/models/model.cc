#include "bitlab/models/model.h"

#include <algorithm>
#include <array>

namespace bitlab::models {
namespace {

struct Row {
  ModelInfo info;
  ModelKind (*kind)();
};

constexpr std::array kRows{
#define BITLAB_MODEL(name, domain, summary) Row{{#name, #domain, summary}, name##_kind},
#include "bitlab/models/models.def"
#undef BITLAB_MODEL
};

Result<ModelKind> kind_named(std::string_view name) {
  std::string names;
  for (const Row& row : kRows) {
    if (row.info.name == name) return row.kind();
    names.append(names.empty() ? "" : ", ").append(row.info.name);
  }
  return make_error(ErrorCode::kUnknownName, "[model] one of {{{}}}, got '{}'", names, name);
}

Status check_size(std::string_view model, const std::string& name, int64_t size) {
  if (size >= 1) return {};
  return make_error(ErrorCode::kInvalidArgument, "[{}] {} of at least 1, got {}", model, name, size);
}

}  // namespace

nn::NamedTensors TensorModel::forward(const nn::NamedTensors& inputs) {
  return nn::forward_of([this](const at::Tensor& x) { return compute(x); })(inputs);
}

Status check_sizes(std::string_view model, const config::Table& config) {
  for (const config::Field& field : config()) {
    if (const auto* size = std::get_if<int64_t*>(&field.value.at); size != nullptr)
      BITLAB_RETURN_IF_ERROR(check_size(model, field.name, **size));
    if (const auto* list = std::get_if<config::List>(&field.value.at); list != nullptr)
      for (size_t i = 0; i < list->size(); ++i)
        BITLAB_RETURN_IF_ERROR(check_size(model, field.name, *std::get<int64_t*>(list->value(i).at)));
  }
  return {};
}

ModelConfig::ModelConfig() : name_(kRows[0].info.name), own_(kRows[0].kind().config) {}

Status ModelConfig::choose(std::string_view name) {
  BITLAB_TRY(ModelKind kind, kind_named(name));
  if (name == name_) return {};
  name_ = name;
  own_ = std::move(kind.config);
  return {};
}

void ModelConfig::fit(const std::map<std::string, int64_t>& sizes) {
  for (const config::Field& field : config::table_of (*this)())
    if (auto* const* size = std::get_if<int64_t*>(&field.value.at); size != nullptr && sizes.contains(field.name))
      **size = sizes.at(field.name);
}

void ModelConfig::visit(config::Fields& f) {
  const auto names = [] {
    std::vector<std::string> list;
    for (const Row& row : kRows) list.emplace_back(row.info.name);
    return list;
  };
  f.select("name", {[this] { return name_; }, [this](std::string_view name) { return choose(name); }, names},
           "architecture");
  own_.visit(f);
}

Result<std::shared_ptr<Model>> make_model(const ModelConfig& config, const MixedPrecisionConfig& quant) try {
  BITLAB_TRY(const ModelKind kind, kind_named(config.name_));
  BITLAB_TRY(const convert::QuantScope scope, convert::QuantScope::create(quant));
  std::shared_ptr<Model> model;
  scope.build([&](const convert::QuantScope& s) { model = kind.make(config.own_, s).value(); });
  model->report_ = scope.report(*model);
  return model;
} catch (const Exception& error) {
  return error.error();
}

Result<std::shared_ptr<Model>> make_model(std::string_view name, const MixedPrecisionConfig& quant) {
  ModelConfig config;
  BITLAB_RETURN_IF_ERROR(config.choose(name));
  return make_model(config, quant);
}

std::vector<ModelInfo> model_list() {
  std::vector<ModelInfo> list;
  for (const Row& row : kRows) list.push_back(row.info);
  return list;
}

}  // namespace bitlab::models
