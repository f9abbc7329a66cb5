// bitlab verify: two files of one network, whatever their formats.
#include "bitlab/cli/run/verify.h"

#include <memory>

#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/run/sizes.h"
#include "bitlab/runtime/compare.h"
#ifdef BITLAB_FORMATS
#include "bitlab/format/formats.h"
#else
#include "bitlab/format/bit/bit.h"
#endif

namespace bitlab::cli {
namespace {

// In the format that the path's ending says; a build without other formats reads .bit files alone.
Result<program::Program> read_program(const std::string& path) {
#ifdef BITLAB_FORMATS
  BITLAB_TRY(const std::string_view format, format::format_of(path));
  return format::read(format, path);
#else
  return format::bit::load(path);
#endif
}

void print_outputs(const runtime::Comparison& comparison) {
  std::vector<std::vector<std::string>> table{{"output", "values", "different", "largest", "largest value"}};
  for (const runtime::OutputDifference& d : comparison.outputs)
    table.push_back({d.name, std::to_string(d.count), std::to_string(d.different), fmt::format("{:.2g}", d.largest),
                     fmt::format("{:.2g}", d.magnitude)});
  fmt::print("{}", format_table(table));
}

}  // namespace

Status verify_files(const VerifyOptions& options) {
  if (options.other.empty())
    return make_error(ErrorCode::kInvalidArgument, "[verify] two files, got one, {}", options.model);
  BITLAB_TRY(const program::Program a, read_program(options.model));
  BITLAB_TRY(const program::Program b, read_program(options.other));
  BITLAB_TRY(const auto sizes, named_sizes(options.sizes));
  BITLAB_TRY(const runtime::Comparison comparison, runtime::compare(a, b, {options.samples, options.seed, sizes}));
  print_outputs(comparison);
  if (!comparison.node.empty()) fmt::print("The first node that is another: {}.\n", comparison.node);
  if (const std::string first = comparison.first(options.tolerance); !first.empty())
    return make_error(ErrorCode::kDifferent, "[verify] the network of {}, got another in {}: {}", options.model,
                      options.other, first);
  fmt::print("{} and {} agree{} on {} samples.\n", options.model, options.other, comparison.is_equal() ? " to the bit" : "",
             options.samples);
  return {};
}

CLI::App* declare_verify(CLI::App& app, VerifyOptions& options) {
  CLI::App* command = app.add_subcommand("verify", "Compare two files of a network: inputs and outputs, weights, results");
  command->add_option("model", options.model, "A file of any format that is read: .bit, .onnx, .gguf, a folder .hf")
      ->required();
  command->add_option("other", options.other, "Another one");
  command->add_option("--samples", options.samples, "Random samples to compare on")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  command->add_option("--seed", options.seed, "Of the samples")->capture_default_str();
  command->add_option("--tolerance", options.tolerance, "How far outputs may differ, as a part of their largest value")
      ->capture_default_str()
      ->check(NumberIn(0.0, 1.0));
  add_sizes(*command, options.sizes);
  command->footer("The exit code is 1 where they differ. Example:\n  bitlab-run verify lenet5.bit lenet5.onnx");
  return command;
}

void add_verify(CLI::App& app, Action& action) {
  auto options = std::make_shared<VerifyOptions>();
  declare_verify(app, *options)->callback([options, &action] { action = [options] { return verify_files(*options); }; });
}

}  // namespace bitlab::cli
