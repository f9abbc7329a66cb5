// What can be done around the parts of a training step, without a change of the loop.
#pragma once

#include <functional>
#include <set>

#include "bitlab/config/config.h"
#include "bitlab/train/learner.h"
#include "bitlab/train/peers.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::ops {
class CallListener;
}

namespace bitlab::train {

class GradientSums;
class LayerOutputs;

// What training minimizes, a scalar.
using Criterion = std::function<at::Tensor(const nn::NamedTensors& outputs, const nn::NamedTensors& batch)>;

struct StepContext {
  Learner& learner;
  const std::vector<NamedParameter>& parameters;  // those that the optimizer has
  torch::optim::Optimizer& optimizer;
  nn::NamedTensors batch;
  Criterion criterion;         // the task's loss, as the config changes it
  int64_t step = 0;            // batches before this one
  int64_t items = 0;           // what the loss is the mean of
  int64_t all_items = 0;       // of this and the other processes
  bool ends_epoch = false;     // no batch of the epoch follows
  nn::NamedTensors outputs{};  // from after_forward() on
  at::Tensor loss{};           // what is reported
  at::Tensor objective{};      // what is differentiated: the loss, until a hook scales it or adds to it
  bool updates = true;         // whether the optimizer steps; false: gradients go on adding up
  bool skips = false;          // of a step that updates: the parameters stay as they are, and the gradients are dropped
  double loss_scale = 0;       // of the next step, where the loss is scaled; else 0
};

// The trainer calls its hooks in their order:
//
//   before_batch     the batch will be made; not of a step that is taken by BitTrainer::step()
//   before_forward   the batch may change
//   after_forward    outputs and loss are there; the loss may be replaced (distillation)
//   before_backward  the objective may be scaled (loss scaling, accumulation); `updates` may be taken back
//   after_backward   gradients are there (unscaling, sums over processes); the step may be skipped
//   before_update    only where the optimizer steps: gradients are final (clipping)
//   after_update     parameters are new (moving averages)
//
// and around each evaluation, and where the best model is kept
//
//   before_evaluation   the parameters may become others
//   after_evaluation    and are again what training goes on with
class StepHook {
 public:
  virtual ~StepHook() = default;
  virtual void before_batch() {}
  virtual void before_forward(StepContext&) {}
  // Who is shown the operators that the network calls between the two; null: nobody.
  virtual ops::CallListener* forward_listener() { return nullptr; }
  virtual void after_forward(StepContext&) {}
  virtual void before_backward(StepContext&) {}
  virtual void after_backward(StepContext&) {}
  virtual void before_update(StepContext&) {}
  virtual void after_update(StepContext&) {}
  virtual void before_evaluation(Learner&) {}
  virtual void after_evaluation(Learner&) {}
  // What must survive an interruption between two steps of the optimizer.
  virtual State state() { return {}; }
  virtual Status load(const State&) { return {}; }
};

// One step of the optimizer for so many batches of each process, with the gradient of the mean over all of their items, as of one large batch. The last step of
// an epoch may have fewer.
class AccumulateGradients : public StepHook {
 public:
  // Gradients of `narrow` parameters travel between processes in bfloat16.
  explicit AccumulateGradients(int64_t batches, std::shared_ptr<Peers> peers = nullptr, std::set<std::string> narrow = {});
  ~AccumulateGradients() override;
  void before_backward(StepContext& step) override;
  void after_backward(StepContext& step) override;

 private:
  int64_t batches_, pending_ = 0, items_ = 0;
  std::unique_ptr<GradientSums> sums_;
};

// Dynamic scaling of the loss, so that gradients in float16 do not vanish (Micikevicius et al. 2018, arXiv:1710.03740); torch.amp.GradScaler with the same
// numbers. The objective is multiplied by `scale`, and gradients are divided by it where the optimizer is to step. Where one of them is not finite the step is
// skipped and
//
//   scale := backoff scale
//
// and after `interval` steps in a row that were not, scale := growth scale. Of processes that train together each must have the same gradients by then. Error
// of after_backward() (bitlab::Exception): NotFinite (gradients that are not finite at any scale down to 2^-24).
class LossScaling : public StepHook {
 public:
  struct Options {
    double scale = 65536, growth = 2, backoff = 0.5;
    int64_t interval = 2000;
  };
  LossScaling() : LossScaling(Options{}) {}
  explicit LossScaling(const Options& options) : options_(options), scale_(options.scale) {}
  void before_backward(StepContext& step) override;
  void after_backward(StepContext& step) override;
  State state() override;
  Status load(const State& state) override;

 private:
  void adapt(bool is_finite);

  Options options_;
  double scale_;
  int64_t taken_ = 0;  // steps since the last that was skipped, or the last growth
};

// Scales gradients down so that their L2 norm, of all together, is at most `max_norm`.
class ClipGradients : public StepHook {
 public:
  explicit ClipGradients(double max_norm) : max_norm_(max_norm) {}
  void before_update(StepContext& step) override;

 private:
  double max_norm_;
};

// Mixup (Zhang et al. 2018, arXiv:1710.09412): of each batch, with l from Beta(alpha, alpha) and another order of its samples,
//
//   x := l x + (1 - l) x[order]        loss := l loss(y) + (1 - l) loss(y[order])
//
// for every floating-point tensor x of the batch; what is none, as labels, stays. The draws follow from seed and step alone. Error of before_forward()
// (bitlab::Exception): InvalidArgument (a batch without floating-point tensors).
class Mixup : public StepHook {
 public:
  Mixup(double alpha, uint64_t seed) : alpha_(alpha), seed_(seed) {}
  void before_forward(StepContext& step) override;
  void after_forward(StepContext& step) override;

  struct Draw {
    double share;      // l
    at::Tensor order;  // int64 [count]
  };
  static Draw draw(double alpha, uint64_t seed, int64_t step, int64_t count);

 private:
  double alpha_;
  uint64_t seed_;
  double share_ = 1;
  nn::NamedTensors own_, others_;
};

// A moving average of the parameters, m := decay m + (1 - decay) p after each step of the optimizer, which begins as they are after the first; buffers,
// as running statistics, are the model's own: torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(decay). It is what is evaluated.
class MovingAverage : public StepHook {
 public:
  explicit MovingAverage(double decay) : decay_(decay) {}
  void after_update(StepContext& step) override;
  void before_evaluation(Learner& learner) override;
  void after_evaluation(Learner& learner) override;
  State state() override { return mean_; }
  Status load(const State& state) override;

 private:
  void exchange(const NamedParameter& parameter);

  double decay_;
  State mean_;
};

// What a network learns from a teacher, which sees the batch as the network does, and gets no gradients. Logits (`distillation`; Hinton et al. 2015,
// arXiv:1503.02531): with the teacher's and the network's logits t and z of each item, at temperature T,
//
//   loss := (1 - share) loss + share T^2 mean over items of KL(softmax(t / T) || softmax(z / T))
//
// Features (`feature_distillation`; Romero et al. 2015, arXiv:1412.6550, of layers of the same shape): for each sample's outputs f of a layer
//
//   loss := loss + share mean over layers of the mean of (n(f) - n(teacher's f))^2,   n(f) = f / sqrt(mean f^2 + 1e-6)
//
// Relations (`relation_distillation`; Wang et al. 2021, arXiv:2012.15828): for the vectors X of an attention's projections, [B, T, heads d], for queries,
// keys and values, before rotary positions and whatever is masked
//
//   R(X) = softmax(X X^T / sqrt(d)) of each of `heads` parts      loss := loss + share sum over the three of mean of KL(R(teacher's X) || R(X))
//
// A layer is what has parameters, by their path, and its output what the last operator returns that reads one of them: blocks, and layers without
// parameters, are none. A network's path stands for the teacher's of that name, or without the "model." of a BitModel. Errors (bitlab::Exception):
// Unsupported (logits of a task without classes), ShapeMismatch (another shape than the teacher's), UnknownName (no such layer), InvalidArgument (a layer
// that was not called; heads that do not divide vectors).
class Distillation : public StepHook {
 public:
  Distillation(nn::Forward teacher, std::vector<NamedParameter> teacher_parameters, TrainingConfig config);
  ~Distillation() override;
  void before_forward(StepContext& step) override;
  ops::CallListener* forward_listener() override;
  void after_forward(StepContext& step) override;

 private:
  struct Pair {
    std::string own, teacher;  // paths of layers
  };
  bool reads_layers() const { return config_.feature_distillation > 0 || config_.relation_distillation > 0; }
  void find_layers(const std::vector<NamedParameter>& parameters);
  void find_features(const std::vector<std::string>& own, const std::vector<std::string>& theirs);
  void find_relations(const std::vector<std::string>& own, const std::vector<std::string>& theirs);
  at::Tensor with_logits(StepContext& step, const nn::NamedTensors& taught) const;
  at::Tensor feature_loss() const;
  at::Tensor relation_loss() const;

  nn::Forward teacher_;
  std::vector<NamedParameter> teacher_parameters_;
  TrainingConfig config_;
  std::vector<Pair> features_, relations_;
  std::unique_ptr<LayerOutputs> own_, theirs_;  // null until layers are known
};

// Freezing of weights that oscillate (Nagel et al. 2022, arXiv:2203.11086, algorithm 1). After each step a code that changes against the direction of its
// last change turns; with momentum m
//
//   f := m turns + (1 - m) f        mean := m code + (1 - m) mean
//
// Once f > threshold the weight stays at the code that the mean rounds to: its latent weight is what that code stands for after each step from then on.
// For the ternary weights that the learner knows.
class FreezeOscillation : public StepHook {
 public:
  FreezeOscillation(double threshold, double momentum) : threshold_(threshold), momentum_(momentum) {}
  void after_update(StepContext& step) override;
  State state() override { return tracks_; }
  Status load(const State& state) override;

 private:
  void follow(const TernaryWeight& weight);

  double threshold_, momentum_;
  State
      tracks_;  // "<parameter>.codes", "….direction", "….frequency", "….mean", "….held" (0 also where it is not) and "….is_held"
};

}  // namespace bitlab::train
