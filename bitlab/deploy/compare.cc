#include "bitlab/deploy/compare.h"

#include <bit>
#include <cmath>
#include <sstream>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/internal/tensor_view.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

Status check_same_graph(const program::Program& deployed, const program::Program& captured) {
  std::istringstream a(print(deployed)), b(print(captured));
  for (std::string left, right; true;) {
    const bool more_left = static_cast<bool>(std::getline(a, left)), more_right = static_cast<bool>(std::getline(b, right));
    if (!more_left && !more_right) return {};
    if (!more_left || !more_right || left != right)
      return make_error(ErrorCode::kInvalidArgument, "[verify] the graph of the module, '{}', got '{}' in the file",
                        more_right ? right : "its end", more_left ? left : "its end");
  }
}

size_t bin_of(double relative) {
  if (relative == 0) return 0;
  const double decade = std::ceil(std::log10(relative) + 1e-12);  // 1e-7 and below: -7
  return static_cast<size_t>(std::clamp(decade + 8, 1.0, static_cast<double>(NodeDifference::kBins - 1)));
}

NodeDifference compare(const program::Node& node, std::span<const float> expected, std::span<const float> found) {
  NodeDifference d;
  d.node = node.name;
  d.op = name(node.op);
  d.bounded = node.exactness == program::Exactness::kBounded;
  d.count = static_cast<int64_t>(expected.size());
  for (float value : expected) d.max_magnitude = std::max(d.max_magnitude, std::fabs(static_cast<double>(value)));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(expected[i]) - static_cast<double>(found[i]));
    d.different += std::bit_cast<uint32_t>(expected[i]) != std::bit_cast<uint32_t>(found[i]);
    d.max_difference = std::max(d.max_difference, difference);
    ++d.histogram[bin_of(d.max_magnitude == 0 ? difference : difference / d.max_magnitude)];
  }
  return d;
}

// Every node's first result as an output, under its own name.
program::Program with_every_output(program::Program program) {
  program.outputs.clear();
  for (const program::Node& node : program.nodes)
    program.outputs.push_back({program.value(node.output()).name, node.output()});
  return program;
}

}  // namespace

Result<std::vector<NodeDifference>> compare_nodes(const program::Program& program, torch::nn::Module& module,
                                                  const Forward& forward, const NamedTensors& example,
                                                  const std::optional<Signature>& signature) {
  BITLAB_TRY(const Captured captured, capture_module(module, forward, example, {signature, program.metadata}));
  BITLAB_RETURN_IF_ERROR(check_same_graph(program, captured.program));
  BITLAB_TRY(const Recording recording, record(forward, example, Keep::kCopies));
  BITLAB_TRY(const NamedTensors found, run(with_every_output(program), example));
  std::vector<NodeDifference> differences;
  bool agreed = true;
  for (size_t i = 0; i < program.nodes.size(); ++i) {
    const std::optional<size_t> call = captured.calls[i];
    if (!call || *call >= recording.calls.size()) continue;  // a part of what LibTorch does in one operator
    const at::Tensor copy = recording.calls[*call].copy, result = found[i].second;
    if (!copy.defined() || copy.scalar_type() != at::kFloat || copy.sizes() != result.sizes()) continue;
    const at::Tensor expected = copy.contiguous();
    const auto count = static_cast<size_t>(expected.numel());
    differences.push_back(
        compare(program.nodes[i], {expected.const_data_ptr<float>(), count}, {result.const_data_ptr<float>(), count}));
    differences.back().fed_exactly = agreed;
    agreed = agreed && differences.back().different == 0;
  }
  return differences;
}

}  // namespace bitlab::deploy
