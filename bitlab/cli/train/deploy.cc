// bitlab deploy: a training run becomes a .bit file.
#include <memory>

#include "bitlab/base/file.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/deployment.h"

namespace bitlab::cli {
namespace {

struct DeployOptions {
  std::string run;
  std::string output;
};

Status run(const DeployOptions& options) {
  BITLAB_TRY(const Run loaded, load_run(options.run));
  const std::filesystem::path output(options.output);
  BITLAB_RETURN_IF_ERROR(ensure_writable_folder(output.has_parent_path() ? output.parent_path() : "."));
  BITLAB_TRY(const deploy::Deployment deployment, deploy_run(loaded, output));
  const auto ratio = [&](int64_t bytes) {
    return fmt::format("{:.1f}x", static_cast<double>(deployment.float32_weight_bytes) / static_cast<double>(bytes));
  };
  const auto& d = deployment;
  fmt::print("{}", format_table({{options.output, "bytes", "", "smaller than float32"},
                                 {"file", std::to_string(d.file_bytes), format_bytes(d.file_bytes), ratio(d.file_bytes)},
                                 {"weights in the file", std::to_string(d.weight_file_bytes),
                                  format_bytes(d.weight_file_bytes), ratio(d.weight_file_bytes)},
                                 {"weights in memory", std::to_string(d.weight_bytes), format_bytes(d.weight_bytes),
                                  ratio(d.weight_bytes)}}));
  for (const std::string& name : d.unread) fmt::print("Left out, since evaluation does not read it: {}\n", name);
  if (d.parity.exact) {
    fmt::print("LibTorch and the runtime give the same bits.\n");
  } else {
    fmt::print("LibTorch and the runtime differ by at most {:.2g} (largest output {:.2g}).\n", d.parity.max_difference,
               d.parity.max_magnitude);
  }
  fmt::print("Next: bitlab-run run {} --data {}\n", options.output, loaded.config.data.name);
  return {};
}

}  // namespace

void add_deploy(CLI::App& app, Action& action) {
  auto options = std::make_shared<DeployOptions>();
  CLI::App* command = app.add_subcommand("deploy", "Write a trained model as a .bit file for the torch-free runtime");
  command->add_option("run", options->run, "Folder that `bitlab train` made")->required();
  command->add_option("-o,--output", options->output, "The .bit file")->required();
  command->footer("Example:\n  bitlab deploy runs/lenet5 -o lenet5.bit");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
