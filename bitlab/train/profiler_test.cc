// Profiles of training where Python's tests (python/tests/test_profile_training.py) do not reach: a network on two devices.
#include "bitlab/train/profiler.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/train/test_support.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

// Autograd runs a device's functions on a thread of its own, those of the host on the thread that trains: one behind the other, and side by side.
struct BothSides : torch::nn::Module {
  torch::nn::Linear there{nullptr}, here{nullptr}, beside{nullptr}, last{nullptr};
  BothSides() {
    there = register_module("there", torch::nn::Linear(6, 9));
    here = register_module("here", torch::nn::Linear(9, 8));
    beside = register_module("beside", torch::nn::Linear(9, 8));
    last = register_module("last", torch::nn::Linear(8, 4));
    there->to(at::kCUDA), beside->to(at::kCUDA), last->to(at::kCUDA);
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = at::tanh(there(x));
    return last(at::tanh(here(y.cpu())).to(at::kCUDA) + at::tanh(beside(y)));
  }
};

TEST(Cuda, AProfileHasTheLayersOfBothSides) {
  if (!at::hasCUDA()) GTEST_SKIP() << "of the ctest entry torch_test_device";
  constexpr int64_t kSteps = 100, kBatch = 4;
  BothSides net;
  Classifier learner(net);
  const auto profiler = std::make_shared<TrainingProfiler>(TrainingProfileOptions{.steps = kSteps, .warmup = 0});
  const TrainingConfig config{.epochs = 20, .batch_size = kBatch, .threads = 1};
  ASSERT_TRUE(BitTrainer(learner, config, {.hooks = {profiler}}).fit(std::make_shared<test::Rows>(20)).ok());
  const profile::Profile profile = profiler->profile().value();
  EXPECT_EQ(profile.device, "cuda:0");
  EXPECT_EQ(profile.runs.calls, kSteps);
  std::map<std::string, profile::StepProfile> layers;
  std::array<double, 2> sums{};
  for (const profile::StepProfile& layer : profile.steps) {
    layers[layer.name] = layer;
    sums[0] += layer.training->forward.seconds, sums[1] += layer.training->backward.seconds;
  }
  EXPECT_LE(sums[0], profile.phases[1].times.seconds * (1 + 1e-9));
  EXPECT_LE(sums[1], profile.phases[2].times.seconds * (1 + 1e-9));
  for (const auto& [name, inputs, outputs] : {std::tuple("there", 6, 9), {"here", 9, 8}, {"beside", 9, 8}, {"last", 8, 4}}) {
    const profile::StepProfile& layer = layers[name];
    EXPECT_EQ(layer.cost.macs, kBatch * inputs * outputs) << name;
    EXPECT_GT(layer.training->forward.least_seconds, 0) << name;
    EXPECT_GT(layer.training->backward.seconds, 0) << name;
  }
  EXPECT_EQ(layers["tanh"].training->activation_bytes, kBatch * 4 * (9 + 8)) << "memory of the device alone";
}

}  // namespace
}  // namespace bitlab::train
