// bitlab verify --against: a .bit file beside the run that it was deployed from, node by node.
#include <memory>

#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/verify.h"
#include "bitlab/cli/train/commands.h"
#include "bitlab/cli/train/deployment.h"
#include "bitlab/format/bit/bit.h"

namespace bitlab::cli {
namespace {

struct AgainstOptions {
  VerifyOptions files;
  std::string run;
};

// "all equal", or how many values lie in which decade of the largest magnitude.
std::string histogram_text(const deploy::NodeDifference& d) {
  constexpr std::array<const char*, deploy::NodeDifference::kBins> kBins{"0",     "<1e-7", "<1e-6", "<1e-5", "<1e-4",
                                                                         "<1e-3", "<1e-2", "<1e-1", ">1e-1"};
  std::string text;
  for (size_t i = 0; i < kBins.size(); ++i)
    if (d.histogram[i] > 0) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", kBins[i], d.histogram[i]);
  return text;
}

void print_nodes(const std::vector<deploy::NodeDifference>& nodes) {
  std::vector<std::vector<std::string>> table{
      {"node", "op", "promise", "values", "different", "largest", "|difference| / largest value"}};
  for (const auto& d : nodes)
    table.push_back({d.node, d.op, d.bounded ? "bounded" : "exact", std::to_string(d.count), std::to_string(d.different),
                     fmt::format("{:.2g}", d.max_difference), histogram_text(d)});
  fmt::print("{}\n", format_table(table));
}

Status run(const AgainstOptions& options) {
  BITLAB_TRY(const program::Program program, format::bit::load(options.files.model));
  BITLAB_TRY(const Run loaded, load_run(options.run));
  BITLAB_TRY(const auto nodes, compare_run(program, loaded, options.files.samples));
  print_nodes(nodes);
  std::string bounded;
  const deploy::NodeDifference* first = nullptr;
  for (const auto& d : nodes) {
    if (d.bounded) bounded += (bounded.empty() ? "" : ", ") + d.node;
    const double bound = d.fed_exactly ? deploy::kBoundOfNode : deploy::kBoundBehindQuantizers;
    const bool broken = d.bounded || !d.fed_exactly ? !(d.max_difference <= bound * d.max_magnitude) : d.different > 0;
    if (first == nullptr && broken) first = &d;
  }
  if (!bounded.empty()) fmt::print("Bounded nodes, equal within rounding: {}\n", bounded);
  if (first != nullptr)
    return make_error(
        ErrorCode::kDifferent,
        "[verify] the values of LibTorch, got {1} of {2} that differ, by up to {3:.3g}, from node '{0}' on (model={4})",
        first->node, first->different, first->count, first->max_difference, options.files.model);
  fmt::print("{} and {} agree{} on {} samples.\n", options.files.model, options.run, bounded.empty() ? " to the bit" : "",
             options.files.samples);
  return {};
}

}  // namespace

// The command of run/ with one option more.
void add_verify_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<AgainstOptions>();
  app.remove_subcommand(app.get_subcommand("verify"));
  CLI::App* command = declare_verify(app, options->files);
  command
      ->add_option("--against", options->run,
                   "Instead of another file: the folder of the run that the .bit file was deployed from, node by node")
      ->excludes(command->get_option("other"));
  command->footer(command->get_footer() + "\n  bitlab verify lenet5.bit --against runs/lenet5");
  command->callback([options, &action] {
    action = [options] { return options->run.empty() ? verify_files(options->files) : run(*options); };
  });
}

}  // namespace bitlab::cli
