// A node made ready to run for one batch size: kernels chosen, sizes fixed.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "bitlab/base/thread_pool.h"
#include "bitlab/runtime/layout.h"
#include "bitlab/runtime/model.h"

namespace bitlab::runtime {

struct StepBuffers {
  std::array<const float*, 4> inputs{};  // the activations, in the order of the schema; indices are int64_t
  float* output = nullptr;
  uint8_t* scratch = nullptr;  // aligned to 64
  ThreadPool* pool = nullptr;
};

struct Step {
  std::function<Status(const StepBuffers&)> run;
  int64_t scratch_bytes = 0;
  std::string kernels;  // the rows that were chosen, "" where there is one implementation
};

struct StepContext {
  const Model& model;
  const Layouts& layouts;
  const program::Node& node;
  int64_t batch;
  int threads;

  // Sizes of the node's input or output at this batch.
  std::vector<int64_t> input_shape(size_t input) const;
  std::vector<int64_t> output_shape() const;
  int64_t output_elements() const;
  // An input or the output as it lies in memory.
  StridedView input_view(size_t input) const;
  Layout output_layout() const { return layouts.of(node.output); }
  // The weight of integers.
  const ResidentConstant& weight() const { return model.weight(node); }
  // The values of a float constant; null for activations, and where it is left out.
  const float* floats(size_t input) const;
};

// make_<op>_step for every operation.
#define BITLAB_OP(name, exactness, layout, inputs, attributes) Result<Step> make_##name##_step(const StepContext& context);
#include "bitlab/program/ops.def"
#undef BITLAB_OP

// Activations that lie in another layout than the node's kernel reads are reordered first. A node whose output is empty has nothing to do:
// makers of steps and kernels see batches of 1 and more.
Result<Step> make_step(const StepContext& context);

}  // namespace bitlab::runtime
