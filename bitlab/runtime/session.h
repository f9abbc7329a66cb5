// Runs a model. A session belongs to one thread at a time; it keeps its memory, the plans of the sizes that it met last, and the states of a model
// that has them, such as keys and values of the tokens so far.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/trace.h"
#include "bitlab/runtime/plan.h"

namespace bitlab::runtime {

class DevicePlan;
class DeviceRun;

struct SessionOptions {
  int threads = 1;       // 0: all cores that the process may use
  TraceSink trace = {};  // gets an event of category "step" for every step, and one of "run" behind them
  // Asked before each step, on the thread that runs; true: the run ends with the error Cancelled. For deadlines, and for users who changed their mind.
  // On a device, where all steps are one piece of work from the second run of a size on: before that.
  std::function<bool()> abort = nullptr;
  // Where steps run: "cpu"; "cuda" or "cuda:<number>", an NVIDIA GPU, for what has kernels there (docs/advanced/gpu.md), with the bits of the CPU.
  // "": what the environment variable BITLAB_DEVICE says, else "cpu".
  std::string device = {};
};

// A tensor of the caller's or of the session's, row-major; images are [batch, channels, height, width].
struct TensorView {
  std::vector<int64_t> shape;
  program::DType dtype = program::DType::kFloat32;
  const void* data = nullptr;  // null where there are no elements

  TensorView() = default;
  TensorView(std::vector<int64_t> sizes, program::DType type, const void* elements)
      : shape(std::move(sizes)), dtype(type), data(elements) {}
  TensorView(std::vector<int64_t> sizes, const float* floats)
      : TensorView(std::move(sizes), program::DType::kFloat32, floats) {}
  TensorView(std::vector<int64_t> sizes, const int64_t* indices)
      : TensorView(std::move(sizes), program::DType::kInt64, indices) {}

  // The elements of a tensor of that type, float32 unless it says otherwise.
  template <class T = float>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

struct NamedView {
  std::string_view name;
  TensorView view;
};

class Session {
 public:
  // Errors: InvalidArgument (threads, device); Unsupported, where there is no such device, driver or plug-in.
  static Result<std::unique_ptr<Session>> create(std::shared_ptr<const Model> model, SessionOptions options = {});

  ~Session();

  // Inputs in the order of the program, and outputs as well. Each symbol must have one size among the inputs, inside its range. The outputs
  // point into the session and hold until the next run. A batch of 0 is one without samples: the outputs are empty, and pointers to no values
  // may be null. The result does not depend on the machine, the number of threads, how samples are split into batches, or, with states, how
  // tokens are split into runs.
  // Errors: InvalidArgument, ShapeMismatch, TypeMismatch, NotFinite, OutOfMemory, Cancelled. A run that fails leaves the position as it was.
  Result<std::span<const TensorView>> run(std::span<const TensorView> inputs);
  // The same with inputs in any order. Error besides: InvalidArgument, for a name that is missing, unknown or there twice.
  Result<std::span<const TensorView>> run(std::span<const NamedView> inputs);
  // Copies an output of the last run, row-major. `bytes`: of `to`. Errors: InvalidArgument (no such output, no run), ShapeMismatch (other bytes).
  Status copy_output(size_t index, void* to, size_t bytes) const;

  // --- of a model with states; others are always at 0
  // Tokens that the states hold.
  int64_t position() const { return position_; }
  // The most that they can.
  int64_t max_position() const;
  // Forgets all tokens, and with them their batch size.
  void reset() { position_ = 0; }
  // Forgets all but the first `length` tokens. Error: InvalidArgument, where there are fewer.
  Status truncate(int64_t length);

  const Model& model() const { return *model_; }
  int threads() const { return pool_->threads(); }
  // "cpu" or "cuda:<number>".
  const std::string& device() const { return options_.device; }
  // Of the last run; null before the first.
  const Plan* plan() const { return current_ == nullptr ? nullptr : &current_->plan; }
  // That of a run with these sizes, made for the session's device. Errors: those of make_plan().
  Result<Plan> plan_for(const program::SymbolSizes& sizes) const;
  // Plans that were made so far. Sizes that come back find theirs.
  int64_t plans_made() const { return plans_made_; }
  // Memory of activations and scratch, and of states.
  int64_t arena_bytes() const { return static_cast<int64_t>(arena_.size()); }
  int64_t state_bytes() const;
  // Memory of the device: of activations, scratch and states, and of the weights, which the model's sessions there share. 0 on the CPU.
  int64_t device_bytes() const;

 private:
  // What stays the same as long as sizes do.
  struct Reordered {
    AlignedBuffer row_major;
    std::optional<StridedCopy> copy;  // into it; nothing where the output lies in the caller's order as it is
  };
  struct Prepared {
    Plan plan;
    std::vector<StridedCopy> inputs;     // from the caller's order
    std::vector<Reordered> reorderings;  // by output
    std::vector<TensorView> outputs;
    std::unique_ptr<DevicePlan> on_device;  // of a session on a device
    ~Prepared();
  };

  Session(std::shared_ptr<const Model> model, SessionOptions options);
  Result<program::SymbolSizes> sizes_of(std::span<const TensorView> inputs) const;
  Status bind(const program::Value& expected, const TensorView& input, program::SymbolSizes& sizes) const;
  Status check_input(const program::Value& expected, const TensorView& input, const program::SymbolSizes& sizes) const;
  Status check_context(const program::SymbolSizes& sizes) const;
  Status reserve(const program::SymbolSizes& sizes);
  Status prepare(const program::SymbolSizes& sizes);
  Result<std::unique_ptr<Prepared>> make_prepared(const program::SymbolSizes& sizes) const;
  void read_inputs(std::span<const TensorView> inputs);
  Status check_abort(const PlannedStep& planned) const;
  Status run_step(const PlannedStep& planned);
  Status run_steps();
  bool is_on_device() const { return kHasDevices && device_ != nullptr; }
  Status run_on_device(std::span<const TensorView> inputs);
  void write_outputs();
  const void* source(program::ValueId id) const;
  uint8_t* buffer(program::ValueId id) { return arena_.data() + current_->plan.offsets[static_cast<size_t>(id)]; }

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<DeviceRun> device_;                // null: the host
  std::vector<std::unique_ptr<Prepared>> prepared_;  // the last used is the last
  Prepared* current_ = nullptr;
  bool has_outputs_ = false;  // of the last run, which did not fail
  int64_t plans_made_ = 0;
  AlignedBuffer arena_;
  std::vector<const void*> step_inputs_;  // of the step that runs
  std::vector<void*> step_outputs_;

  program::Dim appended_;              // positions that a run adds to the states
  std::optional<size_t> context_;      // the symbol
  bool context_is_visible_ = false;    // whether values besides states have it among their sizes
  std::vector<AlignedBuffer> states_;  // in the order of the program, [outer, capacity, inner]
  std::vector<int64_t> state_of_;      // by value; -1: none
  int64_t position_ = 0, capacity_ = 0, state_batch_ = 0;
};

}  // namespace bitlab::runtime
