// Where the time and the memory of training go: layer by layer, forward and back, and by the parts of a step.
//
//   auto profiler = std::make_shared<train::TrainingProfiler>();
//   train::BitTrainer trainer(learner, config, {.hooks = {profiler}});
//   trainer.fit(training).value();
//   std::cout << profiler->profile().value().table();
//
// It watches the operators that the step calls (at::RecordFunction) and the memory that they take, and changes no bit. A call belongs to the layer
// whose parameter it reads, as "blocks.0.fc1"; one that reads none stands under its operator's name, as "relu", unless enter() says otherwise.
// What a pass does between two calls counts towards the second. A function of autograd belongs to the layer whose call made it.
#pragma once

#include <memory>
#include <string>

#include "bitlab/profile/profiler.h"
#include "bitlab/train/hooks.h"

namespace bitlab::train {

struct TrainingProfileOptions {
  int64_t steps = 20;
  int64_t warmup = 3;  // steps before those
};

// For the thread that trains. On a device, where work is queued, the host waits behind each layer and each part of the step: times are those of the device, and of
// starting its work. The first of a trainer's hooks, so that the others count to the parts of the step around which they work.
//
// Of the result: `runs` are the steps, from the batch's making on; `phases` data, forward (with the loss), backward and optimizer; `steps` the layers;
// a layer's MACs are those of its forward pass, of linear layers, convolutions, products of matrices, attention and recurrent layers. All
// bytes are of the last step. Parameters, gradients and the optimizer's state count as many bytes as their tensors have. `memory.arena_bytes` is
// the most that lived at once, in bytes: the parameters, the state of the optimizer, the batch and what a step allocates, gradients among it:
// memory of the network's device alone.
class TrainingProfiler : public StepHook {
 public:
  explicit TrainingProfiler(const TrainingProfileOptions& options = {});
  ~TrainingProfiler() override;

  // A module's call begins and ends, for modules that can tell: what happens between belongs to the innermost. `path` as parameters name it.
  void enter(const std::string& path);
  void leave();

  bool is_done() const;  // all steps are measured, and nothing is watched any more
  // Error: InvalidArgument (no step behind the warm-up).
  Result<profile::Profile> profile() const;

  void before_batch() override;
  void before_forward(StepContext& step) override;
  void after_forward(StepContext& step) override;
  void before_backward(StepContext& step) override;
  void after_backward(StepContext& step) override;
  void before_update(StepContext& step) override;
  void after_update(StepContext& step) override;

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;
};

}  // namespace bitlab::train
