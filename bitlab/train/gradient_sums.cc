#include "bitlab/train/internal/gradient_sums.h"

#include <map>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

namespace bitlab::train {
namespace {

// Those of PyTorch's DistributedDataParallel: the first is small, so that sums begin early.
constexpr int64_t kFirstBucketBytes = int64_t{1} << 20;
constexpr int64_t kBucketBytes = 25 * kFirstBucketBytes;

class WhenThere final : public torch::autograd::FunctionPostHook {
 public:
  explicit WhenThere(std::function<void()> call) : call_(std::move(call)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    call_();
    return outputs;
  }

 private:
  std::function<void()> call_;
};

}  // namespace

struct GradientSums::Bucket {
  at::ScalarType type;
  std::vector<size_t> parameters{};
  int64_t bytes = 0;
  size_t missing = 0;            // gradients
  at::Tensor values{};           // of all of its parameters, once it is sent
  std::function<void()> wait{};  // for the sums, likewise
  bool is_stale = false;         // a gradient changed behind that
};

// Calls of gradient_is_there() where autograd has added to a parameter's gradient, while this lives.
class GradientSums::Watches {
 public:
  explicit Watches(GradientSums& sums) {
    for (size_t i = 0; i < sums.parameters_->size(); ++i) {
      auto node = torch::autograd::impl::grad_accumulator((*sums.parameters_)[i].tensor);
      if (!node) continue;
      const auto key = node->add_post_hook(std::make_unique<WhenThere>([&sums, i] { sums.gradient_is_there(i); }));
      hooks_.emplace_back(std::move(node), key);
    }
  }
  ~Watches() {
    for (const auto& [node, key] : hooks_) node->del_post_hook(key);
  }
  Watches(const Watches&) = delete;
  Watches& operator=(const Watches&) = delete;

 private:
  using Node = decltype(torch::autograd::impl::grad_accumulator(std::declval<const at::Tensor&>()));
  std::vector<std::pair<Node, uintptr_t>> hooks_;
};

GradientSums::GradientSums(std::shared_ptr<Peers> peers, std::set<std::string> narrow)
    : peers_(std::move(peers)), narrow_(std::move(narrow)) {}

GradientSums::~GradientSums() = default;

void GradientSums::begin(const std::vector<NamedParameter>& parameters) {
  watches_.reset();
  parameters_ = &parameters;
  buckets_.clear();
  bucket_of_.assign(parameters.size(), 0);
  is_there_.assign(parameters.size(), false);
  sent_ = 0;
  std::map<at::ScalarType, size_t> open;  // buckets with room
  for (size_t i = parameters.size(); i-- > 0;) {
    const at::ScalarType type = narrow_.contains(parameters[i].name) ? at::kBFloat16 : at::kFloat;
    const auto [found, is_new] = open.try_emplace(type, buckets_.size());
    if (is_new) buckets_.push_back({.type = type});
    bucket_of_[i] = found->second;
    Bucket& bucket = buckets_[found->second];
    bucket.parameters.push_back(i);
    ++bucket.missing;
    bucket.bytes += parameters[i].tensor.numel() * static_cast<int64_t>(c10::elementSize(type));
    if (bucket.bytes >= (found->second == 0 ? kFirstBucketBytes : kBucketBytes)) open.erase(found);
  }
  watches_ = std::make_unique<Watches>(*this);
}

void GradientSums::gradient_is_there(size_t parameter) {
  const std::lock_guard lock(mutex_);
  Bucket& bucket = buckets_[bucket_of_[parameter]];
  if (bucket.wait) bucket.is_stale = true;  // a second time, as checkpointing that runs layers in pieces adds to it
  if (is_there_[parameter]) return;
  is_there_[parameter] = true;
  --bucket.missing;
  while (sent_ < buckets_.size() && buckets_[sent_].missing == 0) send(buckets_[sent_++]);
}

// Zeros stand for what is not there, since another process may have it.
void GradientSums::send(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> flat;
  for (const size_t i : bucket.parameters) {
    const at::Tensor& parameter = (*parameters_)[i].tensor;
    flat.push_back(parameter.grad().defined() ? parameter.grad().to(bucket.type).flatten()
                                              : at::zeros(parameter.numel(), parameter.options().dtype(bucket.type)));
  }
  bucket.values = at::cat(flat);
  bucket.wait = peers_->begin_sum(bucket.values);
}

void GradientSums::finish() {
  const at::NoGradGuard no_grad;
  watches_.reset();
  while (sent_ < buckets_.size()) send(buckets_[sent_++]);
  // What each process finds must be done by all: which gradients there are, and which buckets are to travel again.
  std::vector<double> found;
  for (const NamedParameter& parameter : *parameters_) found.push_back(parameter.tensor.grad().defined() ? 1 : 0);
  for (const Bucket& bucket : buckets_) found.push_back(bucket.is_stale ? 1 : 0);
  const at::Tensor counts = at::tensor(found, at::kDouble);
  peers_->sum(counts);
  const double* const there = counts.const_data_ptr<double>();
  const double* const stale = there + parameters_->size();
  for (Bucket& bucket : buckets_) bucket.wait();
  for (size_t b = 0; b < buckets_.size(); ++b) {
    Bucket& bucket = buckets_[b];
    if (stale[b] > 0) {
      send(bucket);
      bucket.wait();
    }
    int64_t begin = 0;
    for (const size_t i : bucket.parameters) {
      const at::Tensor& parameter = (*parameters_)[i].tensor;
      if (there[i] > 0) {
        at::Tensor& gradient = parameter.mutable_grad();
        if (!gradient.defined()) gradient = at::zeros_like(parameter);
        gradient.copy_(bucket.values.narrow(0, begin, parameter.numel()).view(parameter.sizes()));
      }
      begin += parameter.numel();
    }
  }
  buckets_.clear();
  parameters_ = nullptr;
}

}  // namespace bitlab::train
