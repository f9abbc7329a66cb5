// bitlab kernels list | explain: which kernels there are, and which would run.
#include <memory>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/kernels/explain.h"

namespace bitlab::cli {
namespace {

struct KernelsOptions {
  bool json = false;
  std::string machine;
  kernels::Question question;
};

Status list(const KernelsOptions& options) {
  const auto rows = kernels::list_kernels();
  if (options.json) {
    Json json = Json::array();
    for (const auto& row : rows)
      json.push_back(
          {{"op", row.op}, {"kernel", row.row}, {"layout", row.layout}, {"needs", row.needs}, {"built", row.built}});
    fmt::print("{}\n", json_text(json, 2));
    return {};
  }
  std::vector<std::vector<std::string>> table{{"op", "kernel", "layout", "needs", "built"}};
  for (const auto& row : rows) table.push_back({row.op, row.row, row.layout, row.needs, row.built ? "yes" : "no"});
  fmt::print("{}", format_table(table));
  return {};
}

Json to_json(const kernels::Answer& answer) {
  Json rows = Json::array();
  for (const auto& v : answer.verdicts)
    rows.push_back({{"kernel", v.row}, {"verdict", kernels::name(v.verdict)}, {"reason", v.reason}, {"cost", v.cost}});
  return {{"op", answer.op}, {"layout", answer.layout}, {"kernels", rows}};
}

// Nanoseconds by the cost model: of the product for ternary_gemm, of an element or a product for the other ops.
std::string cost(double nanoseconds) {
  if (nanoseconds == 0) return "";
  return nanoseconds < 1000 ? fmt::format("{:.3g} ns", nanoseconds) : fmt::format("{:.1f} us", nanoseconds / 1000);
}

Status explain(const KernelsOptions& options) {
  Machine machine = this_machine();
  if (!options.machine.empty()) {
    BITLAB_TRY(machine, named_machine(options.machine));
  }
  BITLAB_TRY(const auto answers, kernels::explain_kernels(options.question, machine, kernels::Policy::from_environment()));
  if (options.json) {
    Json json{{"machine", machine.cpu}, {"features", machine.features.to_string()}, {"ops", Json::array()}};
    for (const auto& answer : answers) json["ops"].push_back(to_json(answer));
    fmt::print("{}\n", json_text(json, 2));
    return {};
  }
  fmt::print("{} ({})\n\n", machine.cpu, machine.features.empty() ? "no features" : machine.features.to_string());
  std::vector<std::vector<std::string>> table{{"op", "kernel", "verdict", "cost", "reason"}};
  for (const auto& answer : answers)
    for (const auto& v : answer.verdicts)
      table.push_back({answer.op, v.row, std::string(kernels::name(v.verdict)), cost(v.cost), v.reason});
  fmt::print("{}", format_table(table));
  return {};
}

}  // namespace

void add_kernels(CLI::App& app, Action& action) {
  constexpr int64_t kMost = int64_t{1} << 40;  // as the sizes of a program
  auto options = std::make_shared<KernelsOptions>();
  CLI::App* command = app.add_subcommand("kernels", "List kernels, and explain which would run");
  command->require_subcommand(1);
  CLI::App* lister = command->add_subcommand("list", "Every kernel of this build");
  add_json(*lister, options->json);
  lister->callback([options, &action] { action = [options] { return list(*options); }; });
  CLI::App* explainer = command->add_subcommand("explain", "The verdict on every kernel for a product");
  add_json(*explainer, options->json);
  explainer->add_option("--op", options->question.op, "An op instead of all: " + kernels::kernel_ops());
  explainer->add_option("--machine", options->machine,
                        "A class of CPUs instead of this one: scalar, avx2, avx512, avx512vnni, neon, dotprod, i8mm");
  explainer->add_option("--tokens", options->question.tokens, "Rows of activations")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, kMost));
  explainer->add_option("--rows", options->question.rows, "Rows of the weight")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, kMost));
  explainer->add_option("--depth", options->question.depth, "Columns of the weight, K")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, kMost));
  explainer->add_option("--group", options->question.group, "Weights along K that share a scale; 0: a whole row")
      ->capture_default_str()
      ->check(CLI::IsMember({0, 64, 128, 256}));
  explainer->add_flag("--asymmetric", options->question.asymmetric, "A second scale for negative weights");
  explainer->footer(
      "Examples:\n"
      "  bitlab-run kernels explain --tokens 64 --rows 500 --depth 800\n"
      "  bitlab-run kernels explain --op ternary_gemm --tokens 64 --group 128\n"
      "  BITLAB_KERNEL=ternary_gemm:reference bitlab-run kernels explain --machine avx2");
  explainer->callback([options, &action] { action = [options] { return explain(*options); }; });
}

}  // namespace bitlab::cli
