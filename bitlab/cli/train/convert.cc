// bitlab convert: weights that PyTorch trained become a run folder.
#include <memory>
#include <set>

#include "bitlab/cli/console.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/run_folder.h"
#include "bitlab/config/io.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/train/state_dict.h"

namespace bitlab::cli {
namespace {

struct ConvertOptions {
  std::string checkpoint;
  std::string config;
  std::string output;
  std::string prefix;
};

// What ternary layers have besides weight and bias, and a network of PyTorch has not.
std::set<std::string> optional_names(const torch::nn::Module& model) {
  std::set<std::string> names;
  for (const auto& item : model.named_modules()) {
    const std::string prefix = item.key().empty() ? "" : item.key() + ".";
    names.insert(prefix + "blend");
    if (dynamic_cast<const nn::ProductLayer*>(item.value().get()) == nullptr) continue;
    for (const char* name : {"weight_scale", "weight_scale_neg", "act_scale"}) names.insert(prefix + name);
  }
  return names;
}

// Learned scales that the file lacks begin as those of a new layer, from the weights that were loaded.
void initialize_scales(const torch::nn::Module& model, const train::State& file) {
  for (const auto& item : model.named_modules())
    if (auto* layer = dynamic_cast<nn::ProductLayer*>(item.value().get()); layer != nullptr) {
      const auto view = layer->view();
      const std::string prefix = item.key().empty() ? "" : item.key() + ".";
      if (!file.contains(prefix + "weight_scale")) view.quantizer.initialize_scales(view.weight);
    }
}

// A static step comes from data, which a checkpoint without it does not have.
Status check_steps(const train::State& model) {
  for (const auto& [name, tensor] : model)
    if (name.ends_with("act_scale") && tensor.item<float>() == 0)
      return make_error(ErrorCode::kUnsupported,
                        "[convert] dynamic activations (int8, int4, none) or their steps in the file, got no '{}'", name);
  return {};
}

void print_loaded(const train::State& model, const train::StateDict& file) {
  std::vector<std::vector<std::string>> table{{"name", "shape", "values", "from"}};
  for (const auto& [name, tensor] : model)
    table.push_back({name, c10::str(tensor.sizes()), std::to_string(tensor.numel()),
                     file.tensors.contains(name) ? "file" : "initialized"});
  fmt::print("{}", format_table(table));
  std::string skipped;
  for (const std::string& entry : file.skipped) skipped += (skipped.empty() ? "" : ", ") + entry;
  if (!skipped.empty()) fmt::print("Skipped: {}\n", skipped);
}

Status run(const ConvertOptions& options) {
  Run converted;
  BITLAB_TRY(converted.config, config::load<RunConfig>(options.config));
  BITLAB_TRY(converted.image, load_image_spec(converted.config.data));
  fit_to_images(converted.config.model, converted.image);
  BITLAB_TRY(train::StateDict file, train::load_state_dict(options.checkpoint));
  BITLAB_TRY(file.tensors, train::strip_prefix(file.tensors, options.prefix));
  BITLAB_TRY(converted.model, models::make_model(converted.config.model));
  torch::nn::Module& model = *converted.model;
  const auto may_miss = [names = optional_names(model)](std::string_view name) { return names.contains(std::string(name)); };
  fmt::print("{}", train::to_text(train::compare(train::state_of(model), file.tensors, may_miss)));
  BITLAB_RETURN_IF_ERROR(train::load_into(model, file.tensors, may_miss));
  initialize_scales(model, file.tensors);
  BITLAB_RETURN_IF_ERROR(check_steps(train::state_of(model)));
  BITLAB_RETURN_IF_ERROR(save_run(converted, options.output));
  print_loaded(train::state_of(model), file);
  fmt::print("Next: bitlab deploy {} -o {}.bit\n", options.output, converted.config.model.name);
  return {};
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand("convert", "Make a run of a checkpoint that PyTorch's torch.save wrote");
  command->add_option("checkpoint", options->checkpoint, "The state_dict, or a checkpoint with one: .pth, .pt, .ckpt, .bin")
      ->required();
  command->add_option("--config", options->config, "The config.yaml of the model, its quantization and its data")
      ->required();
  command->add_option("-o,--output", options->output, "Folder for the run, as `bitlab train` makes it")->required();
  command->add_option("--strip-prefix", options->prefix, "What names in the file begin with and the model's do not");
  command->footer(
      "Weights become the latent weights of ternary layers. Names and shapes must be the model's; differences are listed.\n"
      "Example:\n  bitlab convert lenet5.pth --config lenet5.yaml -o runs/lenet5");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
