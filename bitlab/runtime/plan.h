// What a session does for one size of each symbol: steps in order, and where each value lies in one block of memory. Values whose lifetimes
// do not meet share bytes.
#pragma once

#include <string>
#include <vector>

#include "bitlab/program/placement.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

// One node, or a node and those behind it that work on its results element by element.
struct PlannedStep {
  Step step;
  std::vector<const program::Node*> nodes;
  std::vector<program::ValueId> inputs, outputs;
  std::vector<const void*> device_constants{};  // by input, of a step on a device: its constants there; null: no constant
  bool is_view = false;                         // Its outputs are parts of its inputs' memory: it does nothing, on no side.
  const std::string& name() const { return nodes.front()->name; }
  bool is_on_device() const { return !is_view && step.device.run != nullptr; }
  std::string ops() const;  // "ternary_conv + batch_norm + relu"
};

using program::Lifetime;

struct Plan {
  program::SymbolSizes sizes{};
  Layouts layouts;
  std::vector<PlannedStep> steps;
  std::vector<int64_t> offsets;  // by value, in bytes; -1 for constants, states and what stays within a step
  std::vector<program::ValueId>
      owners;  // by value: whose memory it lies in, its own or, as a part, that of another one, which lives as long
  std::vector<Lifetime> lives;  // by value, of those that have an offset
  std::vector<Narrow> narrow;   // by value: what lies in memory as int8
  int64_t arena_bytes = 0;      // values, then the scratch of the largest step
  int64_t scratch_offset = 0;   // bytes of values
  int64_t device_bytes = 0;     // of a plan for a device: the same there, 0 without

  bool is_part(program::ValueId id) const { return owners[static_cast<size_t>(id)] != id; }
  // Bytes that a value takes, as it lies in memory, a multiple of the alignment.
  int64_t bytes_of(const program::Program& program, program::ValueId id) const;
};

// Bytes that a value of its type takes, a multiple of the alignment. Error: Unsupported, where they cannot be counted.
Result<int64_t> value_bytes(const program::Value& value, const program::SymbolSizes& sizes);

// `device`: for a session there, else null. Errors: NoKernel, Unsupported (more memory than can be addressed); OutOfMemory, of weights on a device.
Result<Plan> make_plan(const Model& model, const program::SymbolSizes& sizes, int threads, DeviceWeights* device = nullptr);

// Bytes of values, Plan::bytes_of() each, that live at the same time: of the inputs before the first step, at each step, and of the outputs behind the
// last. The largest of them is the least memory that any placement of these values takes; Plan::scratch_offset is what this one does.
std::vector<int64_t> live_bytes(const program::Program& program, const Plan& plan);

}  // namespace bitlab::runtime
