// Runs of a session on a device. Values and states have a place in the memory of the host and one in the device's, at the same offset; a step runs where it
// has kernels, and what it reads is copied there first, if it was written on the other side. Which copies that takes is known when a plan is made: a
// memory's side is that of the step that wrote it, and parts of it that steps find there are on the same.
//
// Work on the device raises no error: what would be one on the host is written down in a word. Where that is set behind a run, the run is done again on the
// host, whose error it is.
#pragma once

#include <functional>

#include "bitlab/base/trace.h"
#include "bitlab/runtime/internal/device.h"
#include "bitlab/runtime/plan.h"

namespace bitlab::runtime {

// What a plan asks of both memories, and the graph of its run.
class DevicePlan {
 public:
  // Bytes of both memories.
  struct Range {
    int64_t begin, end;
    bool operator==(const Range&) const = default;
  };

  DevicePlan(const Model& model, const Plan& plan);
  ~DevicePlan() { forget_graph(nullptr); }
  DevicePlan(const DevicePlan&) = delete;
  DevicePlan& operator=(const DevicePlan&) = delete;

  // What is copied of the inputs to the device, before all steps.
  const std::vector<Range>& inputs() const { return inputs_; }
  // What is copied to a step's side before it; behind the last step, the outputs to the host.
  const std::vector<Range>& before(size_t step) const { return before_[step]; }

 private:
  friend class DeviceRun;
  void forget_graph(const kernels::CudaPlugin* plugin);

  std::vector<Range> inputs_;
  std::vector<std::vector<Range>> before_;
  bool takes_graph_ = false;  // all steps that do something are the device's
  void* graph_ = nullptr;
  const kernels::CudaPlugin* plugin_ = nullptr;  // of the graph
  int64_t generation_ = -1;                      // of the memory that it was written for; -1: no run yet
};

class DeviceRun {
 public:
  // Of a session on `device`, with so many states. Errors: those of DeviceStream::open and of the device's memory.
  static Result<std::unique_ptr<DeviceRun>> open(const Model& model, int device, size_t states);
  ~DeviceRun();

  DeviceWeights& weights() { return *weights_; }
  // Of the device's memory, the weights' too.
  int64_t bytes() const;
  // Makes room for a plan.
  Status reserve(const Plan& plan);
  // New memory for the states, which are the host's then.
  Status reserve_states(const std::vector<AlignedBuffer>& states);
  // Copies states that are the device's to the host.
  Status fetch_states(std::vector<AlignedBuffer>& states);

  // What a run works on.
  struct Work {
    const Model& model;
    const Plan& plan;
    DevicePlan& own;
    uint8_t* arena;  // the host's
    std::vector<AlignedBuffer>& states;
    const std::vector<int64_t>& state_of;  // by value
    int64_t position, capacity;
    const TraceSink& trace;                                 // if it is set, each step ends before the next one begins
    std::function<Status(const PlannedStep&)> before;       // asked before each step, or before all
    std::function<Status(const PlannedStep&)> run_on_host;  // a step
  };
  // Inputs stand in the host's arena; outputs do behind it. False: a run on the host would have failed. Errors: those of steps on the host and of the
  // device.
  Result<bool> run(const Work& work);

 private:
  DeviceRun() = default;
  struct Word {  // in the device's memory
    int64_t position;
    uint32_t failed, unused;
  };

  Status run_steps(const Work& work);
  Status run_step(const Work& work, const PlannedStep& planned);
  Status bring(const Work& work, const PlannedStep& planned, size_t index);
  Status bring_states(const Work& work, const PlannedStep& planned);
  Status run_graph(const Work& work);
  uint8_t* at(const Work& work, program::ValueId id) const {
    return arena_.data() + work.plan.offsets[static_cast<size_t>(id)];
  }
  Status copy_over(const Work& work, const std::vector<DevicePlan::Range>& ranges, bool to_device);

  std::unique_ptr<DeviceStream> stream_;
  std::shared_ptr<DeviceWeights> weights_;
  DeviceMemory word_, arena_;
  std::vector<DeviceMemory> states_;
  std::vector<bool> state_on_device_;
  int64_t generation_ = 0;  // raised where memory is another one, so that graphs of the former are not run
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
};

}  // namespace bitlab::runtime
