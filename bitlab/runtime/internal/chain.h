// Nodes that work element by element on what one step writes run within that step, while its results are in the cache: a batch norm, an addition
// and an activation behind a convolution, or a few functions in one walk. The bits are those of one node after the other.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

Result<const kernels::ElementwiseRow*> elementwise_row(const StepContext& context);
std::string label(const kernels::ElementwiseRow& row);  // "elementwise:x86_avx2"

// A function of a chain: y = op(y), or y = op(y, b) with element i of y and i % count of b.
struct ChainFunction {
  kernels::Elementwise op;
  const float* constant = nullptr;  // b; or
  size_t input = 0;                 // the place of b among the step's inputs
  int64_t count = 0;                // of b; 0: none
};

// The functions of a node that is applied to its input `place`. An operand that is no constant is the step's input number `next`. Empty where the node is
// no such function, or where an operand does not lie as the kernel meets it.
std::vector<ChainFunction> functions_of(const StepContext& node, size_t place, size_t next);

class Chain {
 public:
  static constexpr size_t kMost = 12;  // functions

  Chain() = default;
  Chain(const kernels::ElementwiseRow* row, std::vector<ChainFunction> functions)
      : row_(row), functions_(std::move(functions)) {}
  bool empty() const { return functions_.empty(); }
  const std::vector<ChainFunction>& functions() const { return functions_; }
  // The chain without its first `count` functions.
  Chain without(size_t count) const {
    return {row_, {functions_.begin() + static_cast<std::ptrdiff_t>(count), functions_.end()}};
  }

  // Calls f with a function of a range that computes the chain on the elements of y; the first function reads those of x.
  template <class F>
  void with(const StepBuffers& b, const float* x, float* y, const F& f) const {
    std::array<kernels::ElementwiseArgs, kMost> list;
    for (size_t i = 0; i < functions_.size(); ++i) {
      const ChainFunction& function = functions_[i];
      const bool is_unary = function.count == 0;
      list[i] = {.op = function.op,
                 .a = i == 0 ? x : y,
                 .b = is_unary || function.constant != nullptr ? function.constant : b.input(function.input),
                 .b_count = function.count,
                 .y = y};
    }
    const std::span<const kernels::ElementwiseArgs> functions(list.data(), functions_.size());
    f([&](int64_t begin, int64_t end) { elementwise(*row_, functions, begin, end); });
  }

  // run(after) writes the step's output and calls the RangeTask `after`, null without a chain, for what it has written.
  template <class F>
  Status behind(const StepBuffers& b, const F& run) const {
    if (empty()) return run(static_cast<const RangeTask*>(nullptr));
    Status status;
    with(b, b.output(), b.output(), [&](const auto& range) {
      const RangeTask after(range);
      status = run(&after);
    });
    return status;
  }

 private:
  const kernels::ElementwiseRow* row_ = nullptr;
  std::vector<ChainFunction> functions_;
};

// That of a step, or none.
inline Chain chain_of(const StepContext& context) { return context.chain == nullptr ? Chain() : *context.chain; }

// Nodes that run as one step: the first one, then those of its chain.
struct Fusion {
  std::vector<const program::Node*> nodes;
  std::vector<program::ValueId> inputs;  // the first node's, then the chain's operands that are no constants
  std::vector<ChainFunction>
      functions;  // of the chain; those of the first node in front, where it is such a function itself
  const program::Node& head() const { return *nodes.front(); }
  std::span<const program::ValueId> outputs() const { return nodes.back()->outputs; }
};

// The steps of a program, in order.
std::vector<Fusion> fuse(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes);

}  // namespace bitlab::runtime
