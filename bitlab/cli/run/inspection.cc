#include "bitlab/cli/run/inspection.h"

#include <unordered_map>

#include "bitlab/cli/run/passes.h"
#include "bitlab/cli/run/sizes.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/runtime/session.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::cli {
namespace {

using program::Program;
using program::Value;
using program::ValueId;

WeightFacts facts_of(const Program& p, const program::Constant& constant,
                     std::span<const runtime::ResidentConstant> copies) {
  const Value& v = p.value(constant.value);
  WeightFacts facts;
  facts.name = v.name;
  facts.count = elements(v.shape, program::kOnes);
  facts.file_bytes = format::bit::stored_bytes(p, constant);
  for (const runtime::ResidentConstant& copy : copies) facts.memory_bytes += copy.bytes();
  if (const auto* ternary = std::get_if<program::TernaryData>(&constant.data)) {
    facts.type = "ternary";
    facts.sparsity = ternary::sparsity(ternary->codes, weight_rows(v.shape), weight_depth(v.shape));
    facts.granularity = ternary->group != 0          ? fmt::format("group{}", ternary->group)
                        : ternary->scale.size() == 1 ? "tensor"
                                                     : "channel";
  } else if (const auto* int8 = std::get_if<program::Int8Data>(&constant.data)) {
    facts.type = "int8";
    facts.granularity = int8->scale.size() == 1 ? "tensor" : "channel";
  }
  if (v.storage == program::Storage::kFloat16 || v.storage == program::Storage::kBFloat16) facts.type = name(v.storage);
  if (facts.granularity.empty()) return facts;
  for (const runtime::ResidentConstant& copy : copies)
    facts.layout += fmt::format("{}{}", facts.layout.empty() ? "" : " ", kernels::name(copy.packed.layout));
  return facts;
}

NodeFacts facts_of(const Program& p, const program::Node& node, const runtime::Model& model, const std::string& kernels) {
  std::string outputs;
  for (const ValueId id : node.outputs) outputs += (outputs.empty() ? "" : " ") + p.show(p.value(id).shape);
  NodeFacts facts{node.name, std::string(name(node.op)), std::move(outputs), std::string(name(node.exactness)), kernels, {},
                  {}};
  for (ValueId id : node.inputs) {
    if (id == program::kNone) continue;
    if (const program::Constant* constant = p.constant(id)) {
      facts.weights.push_back(facts_of(p, *constant, model.constant(id)));
    } else {
      facts.inputs.push_back(p.value(id).name);
    }
  }
  return facts;
}

void count_weights(Inspection& facts, const Program& p, const runtime::Model& model) {
  int64_t ternary_bytes = 0;
  for (const program::Constant& constant : p.constants) {
    const WeightFacts weight = facts_of(p, constant, model.constant(constant.value));
    facts.weights += weight.count;
    facts.weight_file_bytes += weight.file_bytes;
    facts.weight_memory_bytes += weight.memory_bytes;
    if (!weight.ternary()) continue;
    facts.ternary_weights += weight.count;
    ternary_bytes += weight.memory_bytes;
  }
  const auto bits = [](int64_t bytes, int64_t count) {
    return count == 0 ? 0.0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(count);
  };
  facts.float32_bytes = facts.weights * static_cast<int64_t>(sizeof(float));
  facts.bits_a_weight = bits(facts.weight_memory_bytes, facts.weights);
  facts.ternary_bits_a_weight = bits(ternary_bytes, facts.ternary_weights);
}

// "tokens from 1 to 2048"
std::string describe_symbol(const program::Symbol& symbol) {
  std::string text = fmt::format("{} from {}", symbol.name, symbol.min);
  if (symbol.max < program::kMaxElements) text += fmt::format(" to {}", symbol.max);
  return text + (symbol.is_context ? ", of the states" : "");
}

}  // namespace

Result<Inspection> inspect(const std::filesystem::path& path, int64_t batch, const std::vector<std::string>& sizes,
                           int threads, const std::string& device) {
  BITLAB_TRY(const Program p, format::bit::load(path));
  BITLAB_TRY(const auto model, runtime::Model::create(p));
  BITLAB_TRY(const program::SymbolSizes run_sizes, symbol_sizes(p, batch, sizes));
  BITLAB_TRY(const auto session,
             runtime::Session::create(model, {.threads = threads, .trace = {}, .abort = {}, .device = device}));
  BITLAB_TRY(const runtime::Plan plan, session->plan_for(run_sizes));
  Inspection facts;
  std::error_code ignored;
  facts.path = path;
  facts.file_bytes = static_cast<int64_t>(std::filesystem::file_size(path, ignored));
  BITLAB_TRY(facts.version, format::bit::version_of(path));
  facts.metadata = p.metadata;
  facts.exact = p.is_exact();
  const auto describe = [&](const std::string& name, ValueId id) {
    const Value& v = p.value(id);
    const std::string type = v.dtype == program::DType::kFloat32 ? "" : std::string(program::name(v.dtype));
    return fmt::format("{} {}{}", name, type, p.show(v.shape));
  };
  for (const program::Symbol& symbol : p.symbols) facts.symbols.push_back(describe_symbol(symbol));
  for (ValueId id : p.inputs) facts.inputs.push_back(describe(p.value(id).name, id));
  for (ValueId id : p.states) facts.states.push_back(describe(p.value(id).name, id));
  for (const program::Output& output : p.outputs) facts.outputs.push_back(describe(output.name, output.value));
  std::unordered_map<std::string, std::string> kernels;  // by node
  for (const runtime::PlannedStep& step : plan.steps) {
    for (const program::Node* node : step.nodes) kernels[node->name] = "within " + step.name();
    kernels[step.name()] = step.step.kernels;
  }
  for (const program::Node& node : p.nodes) facts.nodes.push_back(facts_of(p, node, *model, kernels[node.name]));
  count_weights(facts, p, *model);
  facts.passes = passes_of(p, *model, plan);
  return facts;
}

}  // namespace bitlab::cli
