// bitlab convert: weights that PyTorch trained become a run folder.
#include <memory>
#include <set>

#include <fmt/ranges.h>

#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
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
  std::string key, prefix;
};

// What ternary layers have besides weight and bias, and a network of PyTorch has not.
std::set<std::string> optional_names(const torch::nn::Module& model) {
  std::set<std::string> names;
  for (const auto& item : model.named_modules()) {
    const std::string prefix = item.key().empty() ? "" : item.key() + ".";
    for (const char* name : {"blend", "draw"}) names.insert(prefix + name);
  }
  for (const nn::FoundProduct& found : nn::products_of(model))
    for (const std::string& name : nn::Quantizer::state_names()) names.insert(found.path + "." + name + found.suffix);
  return names;
}

// Learned scales that the file lacks begin as those of a new layer, from the weights that were loaded.
void initialize_scales(const torch::nn::Module& model, const train::State& file) {
  const std::vector<std::string> names = nn::Quantizer::state_names();
  for (const nn::FoundProduct& found : nn::products_of(model)) {
    const auto view = found.layer->view();
    const auto parameters = found.module->named_parameters(false);
    const auto is_missing = [&](const std::string& name) {
      return name.starts_with("weight_") && parameters.contains(name + found.suffix) &&
             !file.contains(found.path + "." + name + found.suffix);
    };
    if (std::ranges::any_of(names, is_missing)) view.quantizer.initialize_scales(view.weight);
  }
}

// A static step comes from data, which a checkpoint without it does not have.
Status check_steps(const train::State& model) {
  for (const auto& [name, tensor] : model)
    if (name.substr(name.rfind('.') + 1).starts_with("act_scale") && tensor.item<float>() == 0)
      return make_error(ErrorCode::kUnsupported,
                        "[convert] dynamic activations (int8, int4, none) or their steps in the file, got no '{}'", name);
  return {};
}

void print_loaded(const train::State& model, const train::State& file) {
  std::vector<std::vector<std::string>> table{{"name", "shape", "values", "from"}};
  for (const auto& [name, tensor] : model)
    table.push_back(
        {name, c10::str(tensor.sizes()), std::to_string(tensor.numel()), file.contains(name) ? "file" : "initialized"});
  fmt::print("{}", format_table(table));
}

// Where the weights are in the file, and what lies beside them.
void print_found(const train::StateDict& file) {
  for (const std::string& note : file.notes) fmt::print("{}\n", note);
  if (!file.skipped.empty()) fmt::print("Skipped: {}\n", fmt::join(file.skipped, ", "));
}

Status run(const ConvertOptions& options) {
  Run converted;
  BITLAB_TRY(converted.config, config::load<RunConfig>(options.config));
  BITLAB_TRY(converted.preprocess, load_preprocess(converted.config.data));
  converted.config.model.fit(converted.preprocess.sizes());
  BITLAB_TRY(converted.model, models::make_model(converted.config.model, converted.config.quant));
  torch::nn::Module& model = *converted.model;
  const auto may_miss = [names = optional_names(model)](std::string_view name) { return names.contains(std::string(name)); };
  BITLAB_TRY(const train::StateDict file,
             train::load_state_dict(options.checkpoint, train::state_of(model), {options.key, options.prefix, may_miss}));
  print_found(file);
  fmt::print("{}", train::to_text(train::compare(train::state_of(model), file.tensors, may_miss)));
  BITLAB_RETURN_IF_ERROR(train::load_into(model, file.tensors, may_miss));
  BITLAB_RETURN_IF_ERROR(train::check_finite(file.tensors));
  initialize_scales(model, file.tensors);
  BITLAB_RETURN_IF_ERROR(check_steps(train::state_of(model)));
  BITLAB_RETURN_IF_ERROR(save_run(converted, options.output));
  print_loaded(train::state_of(model), file.tensors);
  fmt::print("Next: bitlab deploy {} -o {}.bit\n", options.output, converted.config.model.name());
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
  command->add_option(
      "--key", options->key,
      "The part of the file with the weights, such as state_dict_ema or ema.model; '.' is the file as a whole");
  command->add_option("--strip-prefix", options->prefix, "What names in that part begin with and the model's do not");
  command->footer(
      "Weights become the latent weights of ternary layers. Names and shapes must be the model's; differences are listed.\n"
      "The part of the file whose names and shapes match best is taken: the file as a whole, a dictionary in it, or a\n"
      "module within one. Where parts match equally well, state_dict, model_state_dict or model is taken if the others\n"
      "are averages, teachers or gradients by their names (ema, swa, teacher, ...); else the parts are listed, and --key\n"
      "chooses. What DataParallel (module.) and torch.compile (_orig_mod.) put into names is removed. Tied weights may\n"
      "have one name or all; num_batches_tracked may be absent. NaN and infinity are refused.\n"
      "Examples:\n  bitlab convert student.ckpt --config lenet5.yaml -o runs/student --key state_dict.student\n"
      "  bitlab convert lenet5.pth --config lenet5.yaml -o runs/lenet5");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
