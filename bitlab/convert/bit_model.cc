#include "bitlab/convert/bit_model.h"

#include <algorithm>
#include <sstream>

#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

#include "bitlab/base/file.h"
#include "bitlab/base/text.h"
#include "bitlab/config/io.h"
#include "bitlab/nn/layer.h"

namespace bitlab::convert {
namespace {

constexpr const char* kConfigKey = "mixed_precision";

Error unreadable(const std::filesystem::path& path, std::string_view what) {
  return make_error(ErrorCode::kCorrupt, "[bit_model] a model with its rules, got '{}' (path={})", first_line(what),
                    path.string());
}

Result<MixedPrecisionConfig> config_of(torch::serialize::InputArchive& archive, const std::filesystem::path& path) {
  c10::IValue text;
  if (!archive.try_read(kConfigKey, text) || !text.isString()) return unreadable(path, "no rules");
  return config::from_yaml<MixedPrecisionConfig>(text.toStringRef());
}

std::string one_line(const MixedPrecisionConfig& config) {
  std::string text = config::to_yaml(config);
  text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// f of the archive in a file.
template <class F>
auto with_archive(const std::filesystem::path& path, F f) -> decltype(f(std::declval<torch::serialize::InputArchive&>())) {
  BITLAB_TRY(const std::string bytes, read_file(path));
  try {
    std::istringstream stream(bytes);
    torch::serialize::InputArchive archive;
    archive.load_from(stream);
    return f(archive);
  } catch (const std::exception& error) {
    return unreadable(path, error.what());
  }
}

// Weights that are one tensor, as an embedding's and a head's that is tied to it, are intercepted once, since products of either are seen by their
// memory. Error: InvalidArgument, where rules want different things of them.
std::vector<Interception> without_ties(std::vector<Interception> all, const torch::nn::Module& model,
                                       const ConversionReport& report) {
  const auto refuse = [](const std::string& a, const std::string& a_quant, const std::string& b,
                         const std::string& b_quant) {
    throw Exception(
        make_error(ErrorCode::kInvalidArgument,
                   "[bit_model] one quantization for a weight that layers share, got {} (layer={}) and {} (layer={})",
                   a_quant, a, b_quant, b));
  };
  std::vector<Interception> list;
  for (Interception& i : all) {
    const auto tied =
        std::find_if(list.begin(), list.end(), [&](const auto& known) { return known.weight.is_same(i.weight); });
    if (tied == list.end()) {
      list.push_back(std::move(i));
      continue;
    }
    if (!config::equal(tied->quant, i.quant) || tied->is_master != i.is_master)
      refuse(tied->layer, nn::describe(tied->quant), i.layer, nn::describe(i.quant));
    if (i.use == nn::Quantizer::Use::kProduct) tied->use = i.use;  // of a table and a head
  }
  for (const auto& item : model.named_parameters())
    for (const Interception& i : list) {
      if (!item.value().is_same(i.weight) || item.key() == i.path) continue;
      const std::string layer = item.key().substr(0, item.key().rfind('.'));
      for (const LayerReport& other : report.layers)
        if (other.path == layer && other.action == Action::kKept) refuse(i.layer, nn::describe(i.quant), layer, "none");
    }
  return list;
}

}  // namespace

BitModel::BitModel(std::shared_ptr<torch::nn::Module> model, nn::Forward forward, MixedPrecisionConfig config,
                   const ConvertOptions& options)
    : torch::nn::Module("BitModel"), model_(std::move(model)), forward_(std::move(forward)), config_(std::move(config)) {
  Conversion conversion = convert_module(*model_, config_, options, Outside::kIntercepted).value();
  report_ = std::move(conversion.report);
  register_module("model", model_);
  const auto intercepted = register_module("intercepted", std::make_shared<torch::nn::Module>());
  for (const Interception& i : without_ties(std::move(conversion.interceptions), *model_, report_)) {
    std::shared_ptr<InterceptedWeight> weight;
    if (i.use != nn::Quantizer::Use::kValue) {
      weight = std::make_shared<InterceptedProduct>(i.path, i.layer, i.weight, i.quant, i.window.get(), i.use, i.is_master);
    } else {
      weight = std::make_shared<InterceptedWeight>(i.path, i.layer, i.weight, i.quant, i.window.get(), i.use, i.is_master);
    }
    std::string key = i.path;
    std::replace(key.begin(), key.end(), '.', '/');
    intercepted->register_module(key, weight);
    registry_.add(weight);
  }
  train(model_->is_training());
}

void BitModel::refuse(const Audit& audit) const {
  std::vector<std::string> findings = audit.findings();
  if (is_training())
    for (std::string& unread : audit.unread()) findings.push_back(std::move(unread));
  if (findings.empty()) return;
  std::string list;
  for (const std::string& finding : findings) list += (list.empty() ? "" : ", ") + finding;
  throw Exception(make_error(ErrorCode::kUnsupported,
                             "[bit_model] weights that products alone read, or master weights (master: true), got {}",
                             list));
}

std::string layer_path(const torch::nn::Module& root, const std::string& key, const torch::nn::Module& layer) {
  if (const auto* intercepted = dynamic_cast<const InterceptedWeight*>(&layer); intercepted != nullptr)
    return intercepted->layer;
  constexpr std::string_view kWrapped = "model.";
  return dynamic_cast<const BitModel*>(&root) != nullptr ? key.substr(kWrapped.size()) : key;
}

Status BitModel::check_made_by_rules() const {
  for (const auto& [path, unused, suffix, module, layer] : nn::products_of(*this)) {
    const std::string name = layer_path(*this, path, *module);
    const auto made = std::find_if(report_.layers.begin(), report_.layers.end(),
                                   [&](const LayerReport& report) { return report.path == name; });
    if (made != report_.layers.end() && made->quant != nn::describe(layer->view().quant))
      return make_error(ErrorCode::kUnsupported,
                        "[bit_model] layers as the rules made them, got codes of post-training quantization, which are "
                        "deployed (layer={})",
                        name);
  }
  return {};
}

Status BitModel::save_to(const std::filesystem::path& path) const {
  BITLAB_RETURN_IF_ERROR(check_made_by_rules());
  torch::serialize::OutputArchive archive;
  save(archive);
  archive.write(kConfigKey, c10::IValue(config::to_yaml(config_)));
  std::ostringstream stream;
  archive.save_to(stream);
  return write_file_atomic(path, std::string_view(stream.str()));
}

Result<MixedPrecisionConfig> BitModel::saved_config(const std::filesystem::path& path) {
  return with_archive(path, [&](torch::serialize::InputArchive& archive) { return config_of(archive, path); });
}

Status BitModel::load_from(const std::filesystem::path& path) {
  return with_archive(path, [&](torch::serialize::InputArchive& archive) -> Status {
    BITLAB_TRY(const MixedPrecisionConfig saved, config_of(archive, path));
    if (!config::equal(saved, config_))
      return make_error(ErrorCode::kInvalidArgument,
                        "[bit_model] a model that was saved with the rules '{}', got '{}' (path={})", one_line(config_),
                        one_line(saved), path.string());
    load(archive);
    train(is_training());  // codes are made anew
    return {};
  });
}

}  // namespace bitlab::convert
