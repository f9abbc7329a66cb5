// What the trainer knows of a model. A LibTorch module, and anything else that has parameters and a loss, trains in the same loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/base/result.h"

namespace bitlab::train {

struct Batch {
  at::Tensor input;   // float32 [B, ...]
  at::Tensor target;  // int64 [B]
};

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
};

using Outputs = std::map<std::string, at::Tensor>;  // "loss": a scalar; "logits": [B, classes]
using State = std::map<std::string, at::Tensor>;    // parameters and buffers, by name

class Learner {
 public:
  virtual ~Learner() = default;
  virtual State state() = 0;                    // a copy
  virtual Status load(const State& state) = 0;  // Errors: those of load_into() (state_dict.h)
  virtual void train(bool on) = 0;
  virtual std::vector<NamedParameter> parameters() = 0;
  virtual Outputs forward(const Batch& batch) = 0;
  // How far ternary layers have turned from float (0) to ternary (1) in training.
  virtual void set_blend(double share) = 0;
};

// A module that maps inputs to logits, with the cross-entropy as its loss. The module must outlive the learner.
class Classifier : public Learner {
 public:
  using Forward = std::function<at::Tensor(const at::Tensor&)>;
  Classifier(torch::nn::Module& module, Forward forward) : module_(module), forward_(std::move(forward)) {}
  template <class Module>
  explicit Classifier(Module& module) : Classifier(module, [&module](const at::Tensor& x) { return module.forward(x); }) {}

  State state() override;
  Status load(const State& state) override;
  void train(bool on) override { module_.train(on); }
  std::vector<NamedParameter> parameters() override;
  Outputs forward(const Batch& batch) override;
  void set_blend(double share) override;  // the layers' buffers "blend"

 private:
  torch::nn::Module& module_;
  Forward forward_;
};

}  // namespace bitlab::train
