// bitlab inspect: what a .bit file holds, as text, JSON or Graphviz.
#include <memory>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/run/inspection.h"

namespace bitlab::cli {
namespace {

struct InspectOptions {
  std::string model;
  std::string format = "text";
  int64_t batch = 1;
  std::vector<std::string> sizes;
  int threads = 1;
  std::string device;
  bool passes = false;
};

std::string ratio(int64_t larger, int64_t smaller) {
  return smaller == 0
             ? ""
             : fmt::format("{:.1f}x smaller than float32", static_cast<double>(larger) / static_cast<double>(smaller));
}

// The weight that names a node's row: codes where there are any.
const WeightFacts* main_weight(const NodeFacts& node) { return node.weights.empty() ? nullptr : &node.weights.front(); }

std::vector<std::string> row_of(const NodeFacts& node) {
  std::vector<std::string> row{node.name, node.op, node.output, node.exactness};
  const WeightFacts* weight = main_weight(node);
  if (weight == nullptr) {
    row.insert(row.end(), {"", "", "", "", ""});
  } else {
    int64_t bytes = 0;
    for (const WeightFacts& w : node.weights) bytes += w.memory_bytes;
    const double bits = 8.0 * static_cast<double>(weight->memory_bytes) / static_cast<double>(weight->count);
    row.insert(row.end(), {fmt::format("{}", weight->count), format_bytes(bytes), fmt::format("{:.2f}", bits),
                           weight->ternary() ? fmt::format("{:.1f} %", 100 * weight->sparsity) : weight->type,
                           weight->layout.empty() ? "" : weight->granularity + ", " + weight->layout});
  }
  row.push_back(node.kernels);
  return row;
}

void print_text(const Inspection& m) {
  fmt::print("{}  .bit version {}, {}\n", m.path, m.version, format_bytes(m.file_bytes));
  for (const auto& [key, text] : m.metadata) fmt::print("  {:<18}{}\n", key, text);
  for (const std::string& symbol : m.symbols) fmt::print("  {:<18}{}\n", "size", symbol);
  for (const std::string& input : m.inputs) fmt::print("  {:<18}{}\n", "input", input);
  for (const std::string& state : m.states) fmt::print("  {:<18}{}\n", "state", state);
  for (const std::string& output : m.outputs) fmt::print("  {:<18}{}\n", "output", output);
  fmt::print("  {:<18}{}\n", "bits",
             m.exact ? "exact: the same as LibTorch's eval" : "bounded: equal to LibTorch's eval within rounding");
  fmt::print("  {:<18}{}, of them ternary {}\n", "weights", m.weights, m.ternary_weights);
  fmt::print("  {:<18}{}, {}\n", "weights on disk", format_bytes(m.weight_file_bytes),
             ratio(m.float32_bytes, m.weight_file_bytes));
  fmt::print("  {:<18}{}, {}\n", "weights in memory", format_bytes(m.weight_memory_bytes),
             ratio(m.float32_bytes, m.weight_memory_bytes));
  fmt::print("  {:<18}{:.2f} in memory; ternary weights with their scales {:.2f}\n\n", "bits a weight", m.bits_a_weight,
             m.ternary_bits_a_weight);
  std::vector<std::vector<std::string>> table{
      {"node", "op", "output", "bits", "weights", "bytes", "bits/weight", "zeros", "scale, layout", "kernels"}};
  for (const NodeFacts& node : m.nodes) table.push_back(row_of(node));
  fmt::print("{}", format_table(table));
}

// "9 nodes", "1.2 KiB"
std::string amount(int64_t number, const std::string& unit) {
  return unit == "bytes" ? format_bytes(number) : fmt::format("{} {}", number, unit);
}

void print_passes(const Inspection& m) {
  std::vector<std::vector<std::string>> table{{"stage", "pass", "before", "after", "what it did"}};
  for (const PassFacts& pass : m.passes)
    table.push_back({pass.stage, pass.name, amount(pass.before, pass.unit), amount(pass.after, pass.unit), pass.what});
  fmt::print("{}\n{}", m.path, format_table(table));
}

Json to_json(const WeightFacts& w) {
  Json json{{"name", w.name},
            {"type", w.type},
            {"count", w.count},
            {"file_bytes", w.file_bytes},
            {"memory_bytes", w.memory_bytes}};
  if (w.ternary()) json["sparsity"] = w.sparsity;
  if (!w.layout.empty()) {
    json["granularity"] = w.granularity;
    json["layout"] = w.layout;
  }
  return json;
}

Json to_json(const Inspection& m) {
  Json nodes = Json::array();
  for (const NodeFacts& node : m.nodes) {
    Json weights = Json::array();
    for (const WeightFacts& w : node.weights) weights.push_back(to_json(w));
    nodes.push_back({{"node", node.name},
                     {"op", node.op},
                     {"inputs", node.inputs},
                     {"output", node.output},
                     {"exactness", node.exactness},
                     {"kernels", node.kernels},
                     {"weights", weights}});
  }
  Json passes = Json::array();
  for (const PassFacts& pass : m.passes)
    passes.push_back({{"stage", pass.stage},
                      {"pass", pass.name},
                      {"unit", pass.unit},
                      {"before", pass.before},
                      {"after", pass.after},
                      {"what", pass.what}});
  return {{"path", m.path},
          {"version", m.version},
          {"file_bytes", m.file_bytes},
          {"metadata", m.metadata},
          {"exact", m.exact},
          {"symbols", m.symbols},
          {"inputs", m.inputs},
          {"states", m.states},
          {"outputs", m.outputs},
          {"weights", m.weights},
          {"ternary_weights", m.ternary_weights},
          {"weight_file_bytes", m.weight_file_bytes},
          {"weight_memory_bytes", m.weight_memory_bytes},
          {"float32_bytes", m.float32_bytes},
          {"bits_a_weight", m.bits_a_weight},
          {"ternary_bits_a_weight", m.ternary_bits_a_weight},
          {"nodes", nodes},
          {"passes", passes}};
}

// Text inside a Graphviz string.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

void print_dot(const Inspection& m) {
  fmt::print("digraph {{\n  rankdir=TB; node [shape=box, fontname=\"sans-serif\"];\n");
  for (const std::string& input : m.inputs)
    fmt::print("  {} [shape=ellipse, label={}];\n", quoted(input.substr(0, input.find(' '))), quoted(input));
  for (const NodeFacts& node : m.nodes) {
    const WeightFacts* weight = main_weight(node);
    const std::string bytes = weight == nullptr ? "" : "\n" + std::to_string(weight->count) + " weights";
    const bool ternary = weight != nullptr && weight->ternary();
    std::string label = quoted(node.name + "\n" + node.op + "\n" + node.output + bytes);
    for (size_t at = 0; (at = label.find('\n', at)) != std::string::npos;) label.replace(at, 1, "\\n");
    fmt::print("  {} [label={}{}];\n", quoted(node.name), label, ternary ? ", style=filled, fillcolor=lightblue" : "");
    for (const std::string& input : node.inputs) fmt::print("  {} -> {};\n", quoted(input), quoted(node.name));
  }
  fmt::print("}}\n");
}

Status run(const InspectOptions& options) {
  BITLAB_TRY(const Inspection inspection,
             inspect(options.model, options.batch, options.sizes, options.threads, options.device));
  if (options.format == "json") {
    fmt::print("{}\n", json_text(to_json(inspection), 2));
  } else if (options.format == "dot") {
    print_dot(inspection);
  } else if (options.passes) {
    print_passes(inspection);
  } else {
    print_text(inspection);
  }
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a .bit file holds: graph, sizes, bits, kernels");
  command->add_option("model", options->model, "The .bit file")->required();
  auto* json = command->add_flag_callback(
      "--json", [options] { options->format = "json"; }, "Print JSON");
  auto* dot = command
                  ->add_flag_callback(
                      "--dot", [options] { options->format = "dot"; }, "Print the graph for Graphviz")
                  ->excludes(json);
  command
      ->add_flag("--passes", options->passes,
                 "Print the passes that the program goes through, and what each did to it (part of --json)")
      ->excludes(dot);
  command->add_option("--batch", options->batch, "The batch that kernels are chosen for")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  add_sizes(*command, options->sizes);
  add_device(*command, options->device);
  command->footer(
      "Examples:\n"
      "  bitlab-run inspect lenet5.bit\n"
      "  bitlab-run inspect lenet5.bit --passes --batch 64\n"
      "  bitlab-run inspect lenet5.bit --device cuda\n"
      "  bitlab-run inspect lenet5.bit --dot | dot -Tsvg > lenet5.svg");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
