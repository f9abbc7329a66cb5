// A node made ready to run for one size of each symbol: kernels chosen, sizes fixed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bitlab/base/thread_pool.h"
#include "bitlab/runtime/layout.h"
#include "bitlab/runtime/model.h"

namespace bitlab::kernels {
struct CudaPlugin;
}

namespace bitlab::runtime {

class DeviceWeights;

// Where a step finds its data in one run, in the memory of the side that it runs on. Places are those of the schema and of the node's outputs.
struct BuffersOfSide {
  std::span<const void* const> inputs;  // activations, states and constants; null for what is left out, and for weights
  std::span<void* const> outputs;
  uint8_t* scratch = nullptr;
  int64_t capacity = 0;  // positions that the states have room for

  template <class T = float>
  const T* input(size_t place) const {
    return static_cast<const T*>(inputs[place]);
  }
  template <class T = float>
  T* output(size_t place = 0) const {
    return static_cast<T*>(outputs[place]);
  }
};

// On the host: float32 constants are among the inputs, and scratch is aligned to 64.
struct StepBuffers : BuffersOfSide {
  ThreadPool* pool = nullptr;
  int64_t position = 0;  // of the first token, in a session with states
};

// Sessions on devices (SessionOptions::device): not where the library is to be small.
#if defined(BITLAB_FEW_TILES)
inline constexpr bool kHasDevices = false;
#else
inline constexpr bool kHasDevices = true;
#endif

// On a device: constants that have one copy are among the inputs, and scratch is aligned to 256.
struct DeviceBuffers : BuffersOfSide {
  const kernels::CudaPlugin* plugin = nullptr;
  void* stream = nullptr;
  const int64_t* position = nullptr;  // of the device, so that a run that was written down serves every position
  uint32_t* failed = nullptr;         // becomes other than 0 where a run on the host would fail
};

// What a step is on a device.
struct DeviceStep {
  std::function<const char*(const DeviceBuffers&)>
      run;  // puts the work on the stream; null, or what is wrong. Empty: the step is the host's
  int64_t scratch_bytes = 0;
  std::string kernels;  // "ternary_gemm:cuda"
};

// A place in an input, in bytes from its beginning.
struct Place {
  size_t input = 0;
  int64_t offset = 0;
};

struct Step {
  std::function<Status(const StepBuffers&)> run;
  int64_t scratch_bytes = 0;
  std::string kernels;         // the rows that were chosen, "" where there is one implementation
  int reordered_inputs = 0;    // that are copied to scratch in the order that the kernel reads
  std::vector<Place> found{};  // by output, where the step does nothing but copy what lies in its inputs already; else empty
  DeviceStep device{};         // of a plan for a device
};

// What a step is whose results are there already, or empty.
inline Status nothing_to_do(const StepBuffers&) { return {}; }

// A value that does not lie in memory as its type says, but as int8.
struct Narrow {
  float step = 0;   // what a unit of it stands for; 0: the value is as its type says
  float limit = 0;  // |q| is at most
  explicit operator bool() const { return step != 0; }
  bool operator==(const Narrow&) const = default;
};

class Chain;

struct StepContext {
  const Model& model;
  const Layouts& layouts;
  const program::Node& node;
  const program::SymbolSizes& sizes;  // the context: the most that a run with this plan can have
  int threads;
  const Chain* chain = nullptr;     // what the step computes on its output, too (internal/chain.h); null: nothing
  Narrow from{}, to{};              // how the first input and the step's output lie in memory (internal/narrow.h)
  DeviceWeights* device = nullptr;  // of the device that the plan is for; null: the host

  const program::Value& input(size_t place) const { return model.program().value(node.inputs[place]); }
  bool has_input(size_t place) const { return node.inputs[place] != program::kNone; }
  // Sizes of the node's inputs and outputs in these runs.
  std::vector<int64_t> input_shape(size_t place) const { return shape_at(input(place).shape, sizes); }
  std::vector<int64_t> output_shape(size_t place = 0) const {
    return shape_at(model.program().value(node.outputs[place]).shape, sizes);
  }
  int64_t output_elements() const { return elements(model.program().value(node.output()).shape, sizes); }
  // Inputs and outputs as they lie in memory.
  StridedView input_view(size_t place) const { return view_of(input_shape(place), layouts.of(node.inputs[place])); }
  StridedView output_view(size_t place = 0) const { return view_of(output_shape(place), layouts.of(node.outputs[place])); }
  Layout output_layout() const { return layouts.of(node.output()); }
  // The weight of integers.
  const ResidentConstant& weight() const { return model.weight(node); }
  // The weight of a float product, in panels.
  const float* panels(size_t place) const { return model.panels(node.inputs[place]); }
  // The values of a float32 constant; null for activations, and where it is left out.
  const float* floats(size_t place) const {
    return has_input(place) ? static_cast<const float*>(model.plain(node.inputs[place])) : nullptr;
  }
};

// make_<op>_step for every operation.
#define BITLAB_OP(name, exactness, layout, inputs, attributes) Result<Step> make_##name##_step(const StepContext& context);
#include "bitlab/program/ops.def"
#undef BITLAB_OP

// Activations that lie in another layout than the node's kernel reads are reordered first. A node whose output is empty has nothing to do:
// makers of steps and kernels see batches of 1 and more.
Result<Step> make_step(const StepContext& context);

}  // namespace bitlab::runtime
