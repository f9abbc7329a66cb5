// Runs a model. A session belongs to one thread at a time; it keeps the memory and the plan of the last batch size.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "bitlab/base/trace.h"
#include "bitlab/runtime/plan.h"

namespace bitlab::runtime {

struct SessionOptions {
  int threads = 1;  // 0: all cores that the process may use
  TraceSink trace;  // gets an event of category "step" for every node
};

// A tensor, row-major; images are [batch, channels, height, width].
struct TensorView {
  std::vector<int64_t> shape;
  const float* data = nullptr;       // of float32 ones
  const int64_t* indices = nullptr;  // of int64 ones
};

class Session {
 public:
  // Error: InvalidArgument (threads).
  static Result<std::unique_ptr<Session>> create(std::shared_ptr<const Model> model, SessionOptions options = {});

  ~Session();

  // Inputs in the order of the program, all with the same batch. The outputs point into the session and hold until the next run.
  // A batch of 0 is one without samples: the outputs are empty, and pointers to no values may be null. The result does not depend on the machine, the number of threads or how samples are split into batches.
  // Errors: InvalidArgument, ShapeMismatch, TypeMismatch, NotFinite, OutOfMemory.
  Result<std::span<const TensorView>> run(std::span<const TensorView> inputs);

  const Model& model() const { return *model_; }
  int threads() const { return pool_->threads(); }
  // Null before the first run.
  const Plan* plan() const { return plan_.batch < 0 ? nullptr : &plan_; }
  // Memory of activations and scratch.
  int64_t arena_bytes() const { return static_cast<int64_t>(arena_.size()); }

 private:
  Session(std::shared_ptr<const Model> model, SessionOptions options);
  Result<int64_t> batch_of(std::span<const TensorView> inputs) const;
  Status prepare(int64_t batch);
  Status run_steps();
  float* buffer(program::ValueId id) {
    return reinterpret_cast<float*>(arena_.data() + plan_.offsets[static_cast<size_t>(id)]);
  }

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
  std::unique_ptr<ThreadPool> pool_;
  Plan plan_;
  AlignedBuffer arena_;
  // Whether a value lies in another order than the caller's.
  bool is_reordered(program::ValueId id) const { return plan_.layouts.of(id) == Layout::kChannelsLast; }

  std::vector<AlignedBuffer> row_major_;  // outputs that are reordered
  std::vector<TensorView> outputs_;
};

}  // namespace bitlab::runtime
