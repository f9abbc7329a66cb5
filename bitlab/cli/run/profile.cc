// bitlab profile: where the time and the memory of a deployed model's runs go, and how near that is to what this machine can do.
#include <memory>

#include "bitlab/base/file.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/run/inputs.h"
#include "bitlab/cli/run/sizes.h"
#include "bitlab/profile/profiler.h"

namespace bitlab::cli {
namespace {

struct ProfileCommand {
  std::string model;
  std::vector<std::string> inputs;
  int64_t batch = 1;
  std::vector<std::string> sizes;
  profile::ProfileOptions options{.threads = 0};
  bool no_roofs = false, json = false;
  std::string trace, html;
};

Status run(const ProfileCommand& command) {
  BITLAB_TRY(const auto model, runtime::Model::load(command.model));
  BITLAB_TRY(const program::SymbolSizes sizes, symbol_sizes(model->program(), command.batch, command.sizes));
  Inputs inputs(model->program(), sizes);
  BITLAB_RETURN_IF_ERROR(inputs.read(command.inputs));
  profile::ProfileOptions options = command.options;
  options.roofs = !command.no_roofs;
  BITLAB_TRY(profile::Profile profile, profile::profile(model, inputs.views(), options));
  profile.model = command.model;
  if (!command.trace.empty())
    BITLAB_RETURN_IF_ERROR(write_file_atomic(command.trace, std::string_view(profile.chrome_trace())));
  if (!command.html.empty()) BITLAB_RETURN_IF_ERROR(write_file_atomic(command.html, std::string_view(profile.html())));
  fmt::print("{}", command.json ? profile.json() + "\n" : profile.table());
  return {};
}

}  // namespace

void add_profile(CLI::App& app, Action& action) {
  auto options = std::make_shared<ProfileCommand>();
  CLI::App* command =
      app.add_subcommand("profile", "Show where a run's time and memory go: node by node, beside what the machine can do");
  add_model(*command, options->model);
  command->add_option("--input", options->inputs, "An input's elements, raw and little-endian; otherwise random ones")
      ->type_name("NAME=FILE");
  add_batch(*command, options->batch, "Samples a run");
  add_sizes(*command, options->sizes);
  add_threads(*command, options->options.threads);
  add_device(*command, options->options.device);
  command->add_option("--runs", options->options.runs, "Runs that are measured")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--warmup", options->options.warmup, "Runs before those")
      ->capture_default_str()
      ->check(CLI::Range(0, 1'000'000));
  command->add_flag("--no-roofs", options->no_roofs, "Do not measure what the machine can do");
  add_json(*command, options->json);
  command->add_option("--trace", options->trace,
                      "Write every step of every run to this JSON file, for ui.perfetto.dev or chrome://tracing");
  command->add_option("--html", options->html, "Write a page with the roofline, times and memory to this file");
  command->footer(
      "A step is a node, or several that run in one walk; MACs and bytes are counted from its shapes, and \"of the roof\" "
      "is\n"
      "the least time that the machine could take for them, over the median that it took. States begin empty in each run.\n"
      "Examples:\n"
      "  bitlab-run profile lenet5.bit --threads 1\n"
      "  bitlab-run profile gpt.bit --size tokens=128 --html gpt.html --trace gpt.json");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
