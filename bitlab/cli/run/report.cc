// bitlab report: the page of a training run.
#include <memory>

#include "bitlab/base/file.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/report/run_report.h"

namespace bitlab::cli {
namespace {

struct ReportCommand {
  std::string run, output;
};

Status write_report(const ReportCommand& command) {
  const std::filesystem::path folder(command.run);
  const std::filesystem::path output =
      command.output.empty() ? folder / "report.html" : std::filesystem::path(command.output);
  BITLAB_TRY(const std::string page, report::run_page(folder));
  BITLAB_RETURN_IF_ERROR(write_file_atomic(output, std::string_view(page)));
  fmt::print("Wrote {}\n", output.string());
  return {};
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  auto options = std::make_shared<ReportCommand>();
  CLI::App* command = app.add_subcommand("report", "Write a page about a training run, one file that needs nothing else");
  command->add_option("run", options->run, "Folder that `bitlab train` made, or is making")->required();
  command->add_option("-o,--output", options->output, "The page; otherwise report.html in the folder")->type_name("FILE");
  command->footer(
      "Curves of losses, metrics and the learning rate, statistics of layers, the confusion matrix of a classifier, time "
      "by\n"
      "phase, the environment and the config, as far as the run has them.\n"
      "Example:\n  bitlab report runs/lenet5");
  command->callback([options, &action] { action = [options] { return write_report(*options); }; });
}

}  // namespace bitlab::cli
