// What a network is trained for: the loss of its outputs on a batch, and the metrics by which it is judged.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/nn/named_tensors.h"

namespace bitlab::train {

struct Metric {
  std::string name;
  double value = 0;
};
// The value of that name; null where there is none.
const double* find(const std::vector<Metric>& metrics, std::string_view name);

// Metrics over many batches: numbers of each, which are added up over all of them in their order.
class Meter {
 public:
  virtual ~Meter() = default;
  // The numbers of a batch, of every batch as many.
  virtual std::vector<double> measure(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) = 0;
  virtual size_t numbers() const = 0;  // how many these are
  virtual std::vector<Metric> metrics(const std::vector<double>& sums) const = 0;
  // Whether metrics() depends on more of the batches than their numbers, so that processes cannot share them.
  virtual bool keeps_batches() const { return false; }
};

// Which metric says that one epoch is better than another.
struct Goal {
  std::string metric;
  bool is_higher_better = false;
  // Whatever is a number is better than NaN.
  bool better(double value, double than) const {
    if (std::isnan(value) || std::isnan(than)) return std::isnan(than) && !std::isnan(value);
    return is_higher_better ? value > than : value < than;
  }
};

class Task {
 public:
  virtual ~Task() = default;
  // A scalar, the mean over the items of the batch. Errors (bitlab::Exception): InvalidArgument, a tensor that is missing.
  virtual at::Tensor loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const = 0;
  // The loss with labels that are not sure: 1 - smoothing of each is its own, the rest is spread over all classes evenly (Szegedy et al. 2016,
  // arXiv:1512.00567, section 7). Error (bitlab::Exception): Unsupported, of tasks without labels.
  virtual at::Tensor smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const;
  // The logits of classes, a row an item: [items, classes]. Error (bitlab::Exception): Unsupported, of tasks without classes.
  virtual at::Tensor class_logits(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const;
  // What the loss is the mean of: labels, tokens, values.
  virtual int64_t items(const nn::NamedTensors& batch) const = 0;
  virtual std::unique_ptr<Meter> meter() const = 0;
  virtual Goal goal() const = 0;
};

// logits float [B, classes, ...] and labels int64 [B, ...]: the cross-entropy. Metrics: accuracy, the fraction whose largest logit (the first of
// equals) is the label's, which is the goal; loss.
class Classification : public Task {
 public:
  explicit Classification(std::string logits = std::string(nn::kOutput), std::string label = "label")
      : logits_(std::move(logits)), label_(std::move(label)) {}
  at::Tensor loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  at::Tensor smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const override;
  at::Tensor class_logits(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  int64_t items(const nn::NamedTensors& batch) const override;
  std::unique_ptr<Meter> meter() const override;
  Goal goal() const override { return {"accuracy", true}; }

 private:
  std::string logits_, label_;
};

// Language modelling: logits float [B, T, vocabulary] and the next tokens int64 [B, T], or kNoToken, where none is asked for: the cross-entropy.
// Metrics: perplexity, e to the power of the mean loss, which is the goal; loss.
class NextToken : public Task {
 public:
  static constexpr int64_t kNoToken = -100;  // what PyTorch's cross-entropy ignores
  explicit NextToken(std::string logits = std::string(nn::kOutput), std::string next = "next")
      : logits_(std::move(logits)), next_(std::move(next)) {}
  at::Tensor loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  at::Tensor smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const override;
  at::Tensor class_logits(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  int64_t items(const nn::NamedTensors& batch) const override;
  std::unique_ptr<Meter> meter() const override;
  Goal goal() const override { return {"perplexity", false}; }

 private:
  std::string logits_, next_;
};

// Values and what they should be, of one shape: the mean of the squared differences, as a denoiser that predicts the noise is trained. Metric:
// mse, which is the goal.
class Regression : public Task {
 public:
  explicit Regression(std::string prediction = std::string(nn::kOutput), std::string target = "target")
      : prediction_(std::move(prediction)), target_(std::move(target)) {}
  at::Tensor loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  int64_t items(const nn::NamedTensors& batch) const override;
  std::unique_ptr<Meter> meter() const override;
  Goal goal() const override { return {"mse", false}; }

 private:
  std::string prediction_, target_;
};

// Several tasks of one network, as of two heads: the weighted sum of their losses. Metrics: those of each with its name and a dot in front; loss,
// the sum, which is the goal. Its items are those of the first.
class MultiTask : public Task {
 public:
  struct Part {
    std::string name;
    std::shared_ptr<const Task> task;
    double weight = 1;
  };
  // Error (bitlab::Exception): InvalidArgument (no parts).
  explicit MultiTask(std::vector<Part> parts);
  at::Tensor loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const override;
  // Of parts that all have labels.
  at::Tensor smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const override;
  int64_t items(const nn::NamedTensors& batch) const override { return parts_[0].task->items(batch); }
  std::unique_ptr<Meter> meter() const override;
  Goal goal() const override { return {"loss", false}; }

 private:
  std::vector<Part> parts_;
};

}  // namespace bitlab::train
