// Sums of gradients over processes, here threads, against sums in double: what travels during the backward pass, gradients that only some have, and those that
// change behind the sum.
#include "bitlab/train/internal/gradient_sums.h"

#include <condition_variable>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace bitlab::train {
namespace {

// What all threads of a test have: values of each call, in the order of calls.
class Exchange {
 public:
  explicit Exchange(int64_t size) : size_(size) {}
  int64_t size() const { return size_; }
  void put(size_t call, const at::Tensor& values) {
    const std::lock_guard lock(mutex_);
    Sum& sum = sums_[call];
    sum.values = sum.values.defined() ? sum.values + values : values.clone();
    ++sum.count;
    change_.notify_all();
  }
  at::Tensor take(size_t call) {
    std::unique_lock lock(mutex_);
    change_.wait(lock, [&] { return sums_[call].count == size_; });
    return sums_[call].values;
  }

 private:
  struct Sum {
    at::Tensor values{};
    int64_t count = 0;
  };
  int64_t size_;
  std::mutex mutex_;
  std::condition_variable change_;
  std::map<size_t, Sum> sums_;
};

class Thread final : public Peers {
 public:
  Thread(Exchange& exchange, int64_t rank) : exchange_(exchange), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return exchange_.size(); }
  std::function<void()> begin_sum(at::Tensor values) override {
    const size_t call = calls_++;
    types_.push_back(values.scalar_type());
    exchange_.put(call, values);
    return [this, call, values] { values.copy_(exchange_.take(call)); };
  }
  void broadcast(at::Tensor) override { FAIL(); }
  at::Tensor gather(const at::Tensor& values) override { return values; }
  size_t calls() const { return calls_; }
  const std::vector<at::ScalarType>& types() const { return types_; }

 private:
  Exchange& exchange_;
  int64_t rank_;
  size_t calls_ = 0;
  std::vector<at::ScalarType> types_;
};

// work(peers) in each of so many threads.
void in_threads(int64_t count, const std::function<void(const std::shared_ptr<Thread>&)>& work) {
  Exchange exchange(count);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] { work(std::make_shared<Thread>(exchange, rank)); });
  for (std::thread& thread : threads) thread.join();
}

NamedParameter parameter(const std::string& name, c10::IntArrayRef shape) {
  return {name, at::zeros(shape).requires_grad_(true)};
}

// The gradient that process `rank` has of parameter i.
at::Tensor gradient(int64_t rank, size_t i, c10::IntArrayRef shape) {
  const int64_t count = c10::multiply_integers(shape);
  return (at::arange(count, at::kDouble).mul(0.37).sin() * static_cast<double>(rank * 5 + static_cast<int64_t>(i) + 1))
      .reshape(shape)
      .to(at::kFloat);
}

TEST(GradientSums, AreThoseInDoubleWhicheverProcessesHaveThem) {
  constexpr int64_t kProcesses = 3;
  // The last ones fill a bucket; "narrow" travels in bfloat16; nobody has "none", and only process 1 has "some".
  const std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {
      {"first", {7}}, {"none", {3, 5}},      {"narrow", {33, 9}}, {"some", {11}},
      {"scalar", {}}, {"large", {700, 501}}, {"last", {2, 1, 3}}};
  in_threads(kProcesses, [&](const std::shared_ptr<Thread>& peers) {
    std::vector<NamedParameter> parameters;
    for (const auto& [name, shape] : shapes) parameters.push_back(parameter(name, shape));
    GradientSums sums(peers, {"narrow"});
    for (int pass = 1; pass <= 2; ++pass) {  // the second adds to what is there
      at::Tensor loss = at::zeros({});
      for (size_t i = 0; i < parameters.size(); ++i)
        if (i != 1 && (i != 3 || peers->rank() == 1))
          loss = loss + (parameters[i].tensor * gradient(peers->rank(), i, shapes[i].second)).sum();
      sums.begin(parameters);
      loss.backward();
      sums.finish();
      for (size_t i = 0; i < parameters.size(); ++i) {
        const at::Tensor& found = parameters[i].tensor.grad();
        ASSERT_EQ(found.defined(), i != 1) << shapes[i].first;
        if (!found.defined()) continue;
        at::Tensor expected = at::zeros(shapes[i].second, at::kDouble);
        for (int64_t rank = 0; rank < kProcesses; ++rank)
          if (i != 3 || rank == 1) expected += gradient(rank, i, shapes[i].second);
        // Each process adds the second pass's own to the sum that it has of the first.
        if (pass == 2) expected *= kProcesses + 1;
        const double largest = expected.abs().max().item<double>();
        EXPECT_LE((found - expected).abs().max().item<double>(), (i == 2 ? 2e-2 : 1e-6) * largest) << shapes[i].first;
      }
    }
    EXPECT_EQ(peers->calls(), 2U * 4U) << "two buckets in float32, one in bfloat16, and what there is";
    EXPECT_EQ(std::count(peers->types().begin(), peers->types().end(), at::kBFloat16), 2);
  });
}

// x, and in the backward pass a look at how many sums have begun.
struct Look : torch::autograd::Function<Look> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t calls, int64_t seen) {
    context->saved_data["calls"] = calls;
    context->saved_data["seen"] = seen;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto* peers = reinterpret_cast<const Thread*>(context->saved_data["calls"].toInt());
    *reinterpret_cast<size_t*>(context->saved_data["seen"].toInt()) = peers->calls();
    return {gradients[0], {}, {}};
  }
};

TEST(GradientSums, BeginDuringTheBackwardPass) {
  in_threads(2, [&](const std::shared_ptr<Thread>& peers) {
    const std::vector<NamedParameter> parameters = {parameter("first", {600, 600}), parameter("second", {600, 600}),
                                                    parameter("third", {600, 600})};
    size_t seen = 0;
    at::Tensor x = at::ones({1, 600});
    x = Look::apply(at::matmul(x, parameters[0].tensor), reinterpret_cast<int64_t>(peers.get()),
                    reinterpret_cast<int64_t>(&seen));
    for (size_t i : {1, 2}) x = at::matmul(x + 1, parameters[i].tensor);
    GradientSums sums(peers, {});
    sums.begin(parameters);
    x.sum().backward();
    EXPECT_EQ(seen, 1U) << "the last matrix, of more than a MiB, travels before the first one has a gradient";
    sums.finish();
    EXPECT_EQ(peers->calls(), 3U);
  });
}

// x w, whose backward pass makes the product again, as checkpointing of activations does, and adds to the gradient of w by itself.
struct Again : torch::autograd::Function<Again> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& w) {
    context->save_for_backward({x, w});
    return at::matmul(x, w);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const torch::AutoGradMode enabled(true);
    const at::Tensor x = saved[0].detach().requires_grad_(true);
    torch::autograd::backward({at::matmul(x, saved[1])}, {gradients[0]});
    return {x.grad(), {}};
  }
};

// In one process alone, so that the others must hear of it.
TEST(GradientSums, AGradientThatChangesBehindItsSumTravelsAgain) {
  constexpr int64_t kProcesses = 2, kWidth = 520;  // a matrix of more than a MiB is a bucket
  in_threads(kProcesses, [&](const std::shared_ptr<Thread>& peers) {
    const bool is_piecewise = peers->rank() == 1;
    const std::vector<NamedParameter> parameters = {parameter("before", {kWidth}), parameter("shared", {kWidth, kWidth})};
    const at::Tensor w = parameters[1].tensor, start = at::arange(kWidth).div(kWidth);
    w.detach().copy_(at::arange(kWidth * kWidth).remainder(17).div(9 * kWidth).reshape({kWidth, kWidth}));
    const auto product = [&](const at::Tensor& x) { return is_piecewise ? Again::apply(x, w) : at::matmul(x, w); };
    GradientSums sums(peers, {});
    sums.begin(parameters);
    product(product((parameters[0].tensor + start).unsqueeze(0))).sum().backward();
    sums.finish();
    EXPECT_EQ(peers->calls(), 2U + 1U + 1U) << "two buckets, what there is, and the matrix again";
    const at::Tensor wide = w.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor x = start.to(at::kDouble).unsqueeze(0).requires_grad_(true);
    at::matmul(at::matmul(x, wide), wide).sum().backward();
    for (const auto& [found, one] :
         {std::pair(w.grad(), wide.grad()), std::pair(parameters[0].tensor.grad(), x.grad().squeeze(0))})
      EXPECT_LE((found - kProcesses * one).abs().max().item<double>(), 1e-5 * one.abs().max().item<double>());
  });
}

}  // namespace
}  // namespace bitlab::train
