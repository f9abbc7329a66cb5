#include "bitlab/train/task.h"

#include <algorithm>
#include <cmath>

#include <ATen/core/Reduction.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/sum.h>

#include "bitlab/base/result.h"

namespace bitlab::train {
namespace {

// Means over items, and functions of them.
class Means : public Meter {
 public:
  using Tensors = nn::NamedTensors;
  struct Part {
    std::string name;
    // Over the items of a batch; none: that of the part before.
    std::function<double(const Tensors& outputs, const Tensors& batch)> sum;
    double (*finish)(double mean) = nullptr;
  };
  Means(std::function<int64_t(const Tensors& batch)> items, std::vector<Part> parts)
      : items_(std::move(items)), parts_(std::move(parts)) {}

  // The sum of each part, and the items.
  std::vector<double> measure(const Tensors& outputs, const Tensors& batch) override {
    std::vector<double> numbers;
    for (const Part& part : parts_) numbers.push_back(part.sum ? part.sum(outputs, batch) : numbers.back());
    numbers.push_back(static_cast<double>(items_(batch)));
    return numbers;
  }
  size_t numbers() const override { return parts_.size() + 1; }
  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    std::vector<Metric> list;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const double mean = sums.back() == 0 ? 0 : sums[i] / sums.back();
      list.push_back({parts_[i].name, parts_[i].finish == nullptr ? mean : parts_[i].finish(mean)});
    }
    return list;
  }

 private:
  std::function<int64_t(const Tensors&)> items_;
  std::vector<Part> parts_;
};

// The sum of the task's loss over the items of a batch.
auto loss_sum(const Task& task) {
  return [&task](const nn::NamedTensors& outputs, const nn::NamedTensors& batch) {
    return task.loss(outputs, batch).item<double>() * static_cast<double>(task.items(batch));
  };
}

auto items_of(const Task& task) {
  return [&task](const nn::NamedTensors& batch) { return task.items(batch); };
}

at::Tensor smoothed_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing) {
  constexpr int64_t kNoLabel = -100;  // LibTorch's default
  return at::cross_entropy_loss(logits, labels, /*weight=*/{}, at::Reduction::Mean, kNoLabel, smoothing);
}

double exponential(double mean) { return std::exp(mean); }

// Of a loss of each part's task.
template <class Loss>
at::Tensor weighted_sum(const std::vector<MultiTask::Part>& parts, Loss loss) {
  at::Tensor sum;
  for (const MultiTask::Part& part : parts) {
    const at::Tensor own = loss(*part.task) * part.weight;
    sum = sum.defined() ? sum + own : own;
  }
  return sum;
}

// Several meters, whose numbers follow each other; what a name is put in front of is the name and a dot.
class MultiMeter : public Meter {
 public:
  MultiMeter(const std::vector<MultiTask::Part>& parts, std::unique_ptr<Meter> whole) {
    meters_.emplace_back("", std::move(whole));
    for (const MultiTask::Part& part : parts) meters_.emplace_back(part.name + ".", part.task->meter());
  }
  std::vector<double> measure(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) override {
    std::vector<double> all;
    for (auto& [prefix, meter] : meters_) {
      const std::vector<double> own = meter->measure(outputs, batch);
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }
  size_t numbers() const override {
    size_t all = 0;
    for (const auto& [prefix, meter] : meters_) all += meter->numbers();
    return all;
  }
  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    std::vector<Metric> list;
    auto begin = sums.begin();
    for (const auto& [prefix, meter] : meters_) {
      const auto end = begin + static_cast<std::ptrdiff_t>(meter->numbers());
      for (const Metric& metric : meter->metrics({begin, end})) list.push_back({prefix + metric.name, metric.value});
      begin = end;
    }
    return list;
  }
  bool keeps_batches() const override {
    return std::any_of(meters_.begin(), meters_.end(), [](const auto& entry) { return entry.second->keeps_batches(); });
  }

 private:
  std::vector<std::pair<std::string, std::unique_ptr<Meter>>> meters_;
};

}  // namespace

const double* find(const std::vector<Metric>& metrics, std::string_view name) {
  for (const Metric& metric : metrics)
    if (metric.name == name) return &metric.value;
  return nullptr;
}

at::Tensor Task::smoothed_loss(const nn::NamedTensors&, const nn::NamedTensors&, double smoothing) const {
  throw Exception(
      make_error(ErrorCode::kUnsupported, "[task] labels to be smoothed, got a task without (smoothing={})", smoothing));
}

at::Tensor Task::class_logits(const nn::NamedTensors&, const nn::NamedTensors&) const {
  throw Exception(make_error(ErrorCode::kUnsupported, "[task] logits of classes, got a task without"));
}

at::Tensor Classification::loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const {
  return smoothed_loss(outputs, batch, 0);
}

at::Tensor Classification::smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch,
                                         double smoothing) const {
  return smoothed_cross_entropy(outputs.at(logits_), batch.at(label_), smoothing);
}

at::Tensor Classification::class_logits(const nn::NamedTensors& outputs, const nn::NamedTensors&) const {
  const at::Tensor& logits = outputs.at(logits_);
  return logits.movedim(1, -1).reshape({-1, logits.size(1)});
}

int64_t Classification::items(const nn::NamedTensors& batch) const { return batch.at(label_).numel(); }

std::unique_ptr<Meter> Classification::meter() const {
  const auto right = [this](const nn::NamedTensors& outputs, const nn::NamedTensors& batch) {
    return static_cast<double>(outputs.at(logits_).argmax(1).eq(batch.at(label_)).sum().item<int64_t>());
  };
  return std::make_unique<Means>(items_of(*this), std::vector<Means::Part>{{"accuracy", right}, {"loss", loss_sum(*this)}});
}

at::Tensor NextToken::loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const {
  return smoothed_loss(outputs, batch, 0);
}

at::Tensor NextToken::smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const {
  return smoothed_cross_entropy(outputs.at(logits_).flatten(0, 1), batch.at(next_).flatten(), smoothing);
}

at::Tensor NextToken::class_logits(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const {
  return outputs.at(logits_).flatten(0, 1).index({batch.at(next_).flatten().ne(kNoToken)});
}

int64_t NextToken::items(const nn::NamedTensors& batch) const { return batch.at(next_).ne(kNoToken).sum().item<int64_t>(); }

std::unique_ptr<Meter> NextToken::meter() const {
  return std::make_unique<Means>(items_of(*this),
                                 std::vector<Means::Part>{{"perplexity", loss_sum(*this), exponential}, {"loss", {}}});
}

at::Tensor Regression::loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const {
  return at::mse_loss(outputs.at(prediction_), batch.at(target_));
}

int64_t Regression::items(const nn::NamedTensors& batch) const { return batch.at(target_).numel(); }

std::unique_ptr<Meter> Regression::meter() const {
  return std::make_unique<Means>(items_of(*this), std::vector<Means::Part>{{"mse", loss_sum(*this)}});
}

MultiTask::MultiTask(std::vector<Part> parts) : parts_(std::move(parts)) {
  if (parts_.empty()) throw Exception(make_error(ErrorCode::kInvalidArgument, "[task] at least one part, got none"));
}

at::Tensor MultiTask::loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) const {
  return weighted_sum(parts_, [&](const Task& task) { return task.loss(outputs, batch); });
}

at::Tensor MultiTask::smoothed_loss(const nn::NamedTensors& outputs, const nn::NamedTensors& batch, double smoothing) const {
  return weighted_sum(parts_, [&](const Task& task) { return task.smoothed_loss(outputs, batch, smoothing); });
}

std::unique_ptr<Meter> MultiTask::meter() const {
  return std::make_unique<MultiMeter>(
      parts_, std::make_unique<Means>(items_of(*this), std::vector<Means::Part>{{"loss", loss_sum(*this)}}));
}

}  // namespace bitlab::train
