// What the trainer knows of a model. A LibTorch module, and anything else that has parameters, trains in the same loop.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/base/result.h"
#include "bitlab/nn/named_tensors.h"
#include "bitlab/nn/quantizer.h"
#include "bitlab/ops/ops.h"
#include "bitlab/train/task.h"

namespace bitlab::train {

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  bool is_table = false;  // of an embedding
};

std::vector<NamedParameter> parameters_of(const torch::nn::Module& module);

// Where these are: on the device of the first, or on the CPU where there are none.
at::Device device_of(const std::vector<NamedParameter>& parameters);

// A ternary weight of a product, as it is evaluated now.
struct TernaryWeight {
  std::string name;        // of the parameter
  at::Tensor latent;       // the parameter
  at::Tensor codes;        // int8, its shape
  at::Tensor rows;         // the codes as a matrix [N, K], a row an output
  at::Tensor plus, minus;  // what codes 1 and -1 stand for, above 0; float32, spread over its shape
};

// Of a weight that is quantized so.
TernaryWeight ternary_weight(std::string name, const at::Tensor& latent, const ops::WeightQuant& quant,
                             const ops::ConvWindow* window);

using State = std::map<std::string, at::Tensor>;  // parameters and buffers, by name

class Learner {
 public:
  virtual ~Learner() = default;
  virtual State state() = 0;                    // a copy
  virtual Status load(const State& state) = 0;  // Errors: those of load_into() (state_dict.h)
  virtual void train(bool on) = 0;
  virtual std::vector<NamedParameter> parameters() = 0;
  // Moves parameters and buffers; they stay the tensors that they are.
  virtual void to(at::Device device) = 0;
  // The network's outputs for a batch, which holds its inputs and whatever else the task compares them with.
  virtual nn::NamedTensors forward(const nn::NamedTensors& batch) = 0;
  virtual const Task& task() const = 0;
  // How far each ternary layer has turned from float (0) to ternary (1) in training, the layers in the order of the network.
  virtual void set_blend(const nn::Blend& blend) = 0;
  // All of them.
  void set_blend(double share) {
    set_blend(nn::Blend([share](int64_t, int64_t) { return share; }));
  }
  // None where it does not know.
  virtual std::vector<TernaryWeight> ternary_weights() { return {}; }
};

// A module. It must outlive the learner.
class ModuleLearner : public Learner {
 public:
  ModuleLearner(torch::nn::Module& module, nn::Forward forward, std::shared_ptr<const Task> task)
      : module_(module), forward_(std::move(forward)), task_(std::move(task)) {}
  // For a module with a forward of its own, of named tensors or of one.
  template <class Module>
  ModuleLearner(Module& module, std::shared_ptr<const Task> task)
      : ModuleLearner(module, nn::forward_of(module), std::move(task)) {}

  State state() override;
  Status load(const State& state) override;
  void train(bool on) override { module_.train(on); }
  std::vector<NamedParameter> parameters() override;
  void to(at::Device device) override;
  nn::NamedTensors forward(const nn::NamedTensors& batch) override { return forward_(batch); }
  const Task& task() const override { return *task_; }
  using Learner::set_blend;
  void set_blend(const nn::Blend& blend) override;
  // Of linear layers and convolutions.
  std::vector<TernaryWeight> ternary_weights() override;

 private:
  torch::nn::Module& module_;
  nn::Forward forward_;
  std::shared_ptr<const Task> task_;
};

// A module that maps inputs to logits, called "output", of labels, called "label".
class Classifier : public ModuleLearner {
 public:
  template <class Module>
  explicit Classifier(Module& module) : ModuleLearner(module, std::make_shared<Classification>()) {}
};

}  // namespace bitlab::train
