#include <algorithm>

#include "bitlab/runtime/internal/chain.h"

namespace bitlab::runtime {
namespace {

using program::Node;
using program::Op;
using program::Program;
using program::ValueId;

// Whether a node's step computes a chain on what it has written (StepContext::chain).
bool takes_chains(Op op) { return op == Op::ternary_conv || op == Op::conv; }

class Fuser {
 public:
  Fuser(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes)
      : model_(model),
        p_(model.program()),
        layouts_(layouts),
        sizes_(sizes),
        readers_(p_.values.size()),
        step_of_(p_.values.size(), -1) {
    for (const Node& node : p_.nodes)
      for (const ValueId id : node.inputs)
        if (id != program::kNone) ++readers_[static_cast<size_t>(id)];
    for (const program::Output& output : p_.outputs) ++readers_[static_cast<size_t>(output.value)];
  }

  std::vector<Fusion> all() {
    for (const Node& node : p_.nodes) {
      if (!joins(node)) begin(node);
      for (const ValueId id : node.outputs) step_of_[static_cast<size_t>(id)] = joined_;
    }
    return std::move(steps_);
  }

 private:
  StepContext context(const Node& node) const { return {model_, layouts_, node, sizes_, 1}; }
  int64_t step_of(ValueId id) const { return id == program::kNone ? -1 : step_of_[static_cast<size_t>(id)]; }

  void begin(const Node& node) {
    joined_ = static_cast<int64_t>(steps_.size());
    steps_.push_back(
        {{&node}, node.inputs, takes_chains(node.op) ? std::vector<ChainFunction>() : functions_of(context(node), 0, 1)});
  }

  // Appends a node to the step that writes one of its inputs, if nothing else reads that, and the other inputs are there before the step.
  bool joins(const Node& node) {
    for (size_t place = 0; place < std::min<size_t>(node.inputs.size(), 2); ++place) {
      const ValueId main = node.inputs[place];
      const int64_t at = step_of(main);
      if (at < 0 || readers_[static_cast<size_t>(main)] != 1) continue;
      Fusion& step = steps_[static_cast<size_t>(at)];
      if (step.outputs().size() != 1 || step.outputs()[0] != main ||
          (step.functions.empty() && !takes_chains(step.head().op)))
        continue;
      if (layouts_.of(main) != layouts_.of(node.output()) || elements(p_.value(main).shape, sizes_) == 0) continue;
      const bool is_late =
          std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return id != main && step_of(id) >= at; });
      if (is_late) continue;
      const std::vector<ChainFunction> functions = functions_of(context(node), place, step.inputs.size());
      if (functions.empty() || step.functions.size() + functions.size() > Chain::kMost) continue;
      for (const ChainFunction& f : functions)
        if (f.count != 0 && f.constant == nullptr) step.inputs.push_back(node.inputs[1 - place]);
      step.functions.insert(step.functions.end(), functions.begin(), functions.end());
      step.nodes.push_back(&node);
      joined_ = at;
      return true;
    }
    return false;
  }

  const Model& model_;
  const Program& p_;
  const Layouts& layouts_;
  const program::SymbolSizes& sizes_;
  std::vector<int> readers_;      // by value, outputs of the program counted
  std::vector<int64_t> step_of_;  // by value; -1: there before all steps
  std::vector<Fusion> steps_;
  int64_t joined_ = 0;  // the step of the last node
};

}  // namespace

std::vector<Fusion> fuse(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes) {
  return Fuser(model, layouts, sizes).all();
}

}  // namespace bitlab::runtime
