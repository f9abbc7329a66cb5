// What can be done around the parts of a training step, without a change of the loop.
#pragma once

#include "bitlab/train/learner.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

struct StepContext {
  Learner& learner;
  const std::vector<NamedParameter>& parameters;  // those that the optimizer has
  torch::optim::Optimizer& optimizer;
  nn::NamedTensors batch;
  int64_t items = 0;           // what the loss is the mean of
  bool ends_epoch = false;     // no batch of the epoch follows
  nn::NamedTensors outputs{};  // from after_forward() on
  at::Tensor loss{};           // what is reported
  at::Tensor objective{};      // what is differentiated: the loss, until a hook scales it or adds to it
  bool updates = true;         // whether the optimizer steps; false: gradients go on adding up
};

// The trainer calls its hooks in their order:
//
//   before_batch     the batch will be made; not of a step that is taken by BitTrainer::step()
//   before_forward   the batch may change
//   after_forward    outputs and loss are there; the loss may be replaced (distillation)
//   before_backward  the objective may be scaled (loss scaling, accumulation)
//   after_backward   gradients are there (unscaling, all-reduce); `updates` may be taken back
//   before_update    only where the optimizer steps: gradients are final (clipping)
//   after_update     parameters are new (moving averages)
class StepHook {
 public:
  virtual ~StepHook() = default;
  virtual void before_batch() {}
  virtual void before_forward(StepContext&) {}
  virtual void after_forward(StepContext&) {}
  virtual void before_backward(StepContext&) {}
  virtual void after_backward(StepContext&) {}
  virtual void before_update(StepContext&) {}
  virtual void after_update(StepContext&) {}
  // What must survive an interruption between two steps of the optimizer.
  virtual State state() { return {}; }
  virtual Status load(const State&) { return {}; }
};

// One step of the optimizer for so many batches, with the gradient of the mean over all of their items, as of one large batch. The last step of an
// epoch may have fewer.
class AccumulateGradients : public StepHook {
 public:
  explicit AccumulateGradients(int64_t batches) : batches_(batches) {}
  void before_backward(StepContext& step) override;
  void after_backward(StepContext& step) override;

 private:
  int64_t batches_, pending_ = 0, items_ = 0;
};

// Scales gradients down so that their L2 norm, of all together, is at most `max_norm`.
class ClipGradients : public StepHook {
 public:
  explicit ClipGradients(double max_norm) : max_norm_(max_norm) {}
  void before_update(StepContext& step) override;

 private:
  double max_norm_;
};

}  // namespace bitlab::train
