// Interrupted training goes on to the same bits; the parts of a step that hooks change, against LibTorch in double.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/test_support.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

namespace fs = std::filesystem;
using test::Rows, test::Small;

class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_resume_{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~ResumeTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

// Learned scales, a static step, running statistics, dropout: everything that a step may change.
struct Net : torch::nn::Module {
  nn::BitLinear fc1{nullptr}, fc2{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Dropout dropout{nullptr};
  Net() {
    BitQuantConfig quant = BitQuantConfig::for_mobile();
    fc1 = register_module("fc1", nn::BitLinear(nn::BitLinearOptions(784, 32).quant(quant)));
    norm = register_module("norm", torch::nn::BatchNorm1d(32));
    dropout = register_module("dropout", torch::nn::Dropout(0.3));
    fc2 = register_module("fc2", nn::BitLinear(nn::BitLinearOptions(32, 10).quant(quant)));
  }
  at::Tensor forward(const at::Tensor& x) { return fc2(dropout(torch::relu(norm(fc1(x.flatten(1)))))); }
};

// The mean of all parameters that ever were, as a hook with a state.
struct Average : StepHook {
  State mean;
  double weight = 0.1;
  void after_update(StepContext& step) override {
    for (const NamedParameter& p : step.parameters) {
      at::Tensor& m = mean[p.name];
      m = m.defined() ? m + weight * (p.tensor.detach() - m) : p.tensor.detach().clone();
    }
  }
  State state() override { return mean; }
  Status load(const State& state) override {
    mean = state;
    return {};
  }
};

struct Outcome {
  State model, average;
  TrainingReport report;
};

void expect_same(const State& a, const State& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(torch::equal(tensor, b.at(name))) << name;
}

// But for what a clock says.
void expect_same(const TrainingReport& a, const TrainingReport& b) {
  EXPECT_EQ(a.best_epoch, b.best_epoch);
  EXPECT_EQ(a.best_step, b.best_step);
  ASSERT_EQ(a.epochs.size(), b.epochs.size());
  for (size_t i = 0; i < a.epochs.size(); ++i) EXPECT_EQ(a.epochs[i].loss, b.epochs[i].loss) << i;
  ASSERT_EQ(a.evaluations.size(), b.evaluations.size());
  for (size_t i = 0; i < a.evaluations.size(); ++i) {
    const EvaluationReport &x = a.evaluations[i], &y = b.evaluations[i];
    EXPECT_EQ(x.step, y.step);
    ASSERT_EQ(x.metrics.size(), y.metrics.size());
    for (size_t m = 0; m < x.metrics.size(); ++m) {
      EXPECT_EQ(x.metrics[m].name, y.metrics[m].name);
      EXPECT_EQ(x.metrics[m].value, y.metrics[m].value) << i << x.metrics[m].name;
    }
    ASSERT_EQ(x.weights.size(), 2U);
    ASSERT_EQ(y.weights.size(), 2U);
    for (size_t w = 0; w < 2; ++w) {
      EXPECT_EQ(x.weights[w].name, y.weights[w].name);
      EXPECT_EQ(x.weights[w].flips, y.weights[w].flips);
      EXPECT_EQ(x.weights[w].zeros, y.weights[w].zeros);
    }
  }
}

// With all that a step, an evaluation and a checkpoint may have.
TrainingConfig full_config(config::Optimizer optimizer) {
  const bool is_adam = optimizer == config::Optimizer::kAdamW;
  return {.epochs = 4,
          .batch_size = 16,
          .optimizer = optimizer,
          .learning_rate = 5e-3,
          .weight_decay = 0.01,
          .ternary_delay = 0.2,
          .ternary_warmup = 0.5,
          .threads = 1,
          .accumulate = 2,
          .clip_norm = 1.0,
          .label_smoothing = 0.1,
          .mixup = 0.3,
          .ema = 0.9,
          .distillation = 0.3,
          .temperature = 2.0,
          .statistics_batches = 2,
          .freeze_oscillation = 0.05,
          .oscillation_momentum = 0.1,
          .precision = is_adam                                ? config::Precision::kBFloat16
                       : optimizer == config::Optimizer::kSgd ? config::Precision::kFloat16
                                                              : config::Precision::kFloat32,
          .workers = 2,
          .evaluate_steps = is_adam ? 4 : 0,
          .patience = 100,
          .checkpoint_steps = 3,
          .keep_best = 2,
          .keep_last = 2};
}

TEST_F(ResumeTest, GoesOnToTheSameBits) {
  const auto training = data::load_dataset("synthetic", data::Split::kTrain, {.root = {}, .limit = 130}).value();
  const auto validation = data::load_dataset("synthetic", data::Split::kTest, {.root = {}, .limit = 60}).value();
  for (const auto optimizer :
       {config::Optimizer::kAdamW, config::Optimizer::kAdam, config::Optimizer::kSgd, config::Optimizer::kMuon}) {
    const bool is_adam = optimizer == config::Optimizer::kAdamW;
    const TrainingConfig config = full_config(optimizer);
    // Trains until the end, or until `stop` batches were seen; from the beginning or from a checkpoint.
    const auto train = [&](const fs::path& checkpoint, bool resume, int64_t stop, int64_t seed) -> Result<Outcome> {
      torch::manual_seed(static_cast<uint64_t>(seed));
      Net net;
      ModuleLearner learner(net, std::make_shared<Classification>());
      const auto average = std::make_shared<Average>();
      TrainerOptions options{.best = {}, .checkpoint = checkpoint, .resume = resume};
      options.transforms = {data::random_crop(3)};
      options.hooks = {average};
      torch::nn::Linear teacher(784, 10);
      for (const at::Tensor& p : teacher->parameters()) torch::nn::init::constant_(p, 0.01);
      options.teacher = nn::forward_of([&](const at::Tensor& x) { return teacher(x.flatten(1)); });
      options.on_step = [&](const StepReport&) {
        if (--stop == 0) throw Exception(make_error(ErrorCode::kInternal, "[test] power, got none"));
      };
      BITLAB_TRY(TrainingReport report, BitTrainer(learner, config, options).fit(training, validation));
      return Outcome{learner.state(), average->mean, std::move(report)};
    };
    const Outcome whole = train("", false, -1, 1).value();
    ASSERT_EQ(whole.report.epochs.size(), 4U);
    // 9 batches and 5 steps an epoch. Within the first epoch, at an epoch's end, in the third.
    for (const int64_t stop : is_adam ? std::vector<int64_t>{7, 9, 25} : std::vector<int64_t>{25}) {
      const fs::path checkpoint = folder_ / fmt::format("{}.ckpt", stop);
      EXPECT_EQ(train(checkpoint, false, stop, 1).error().message, "[test] power, got none");
      EXPECT_FALSE(train(checkpoint, true, 3, 77).ok()) << "interrupted again";
      const Outcome resumed = train(checkpoint, true, -1, 99).value();
      expect_same(whole.model, resumed.model);
      expect_same(whole.average, resumed.average);
      expect_same(whole.report, resumed.report);
      // A run that has ended gives its result again.
      expect_same(train(checkpoint, true, -1, 5).value().model, whole.model);
    }
  }
}

TEST_F(ResumeTest, RefusesOtherCheckpoints) {
  const auto training = data::load_dataset("synthetic", data::Split::kTrain, {.root = {}, .limit = 20}).value();
  const fs::path path = folder_ / "last.ckpt";
  const auto fit = [&](torch::nn::Module& module, nn::Forward call, config::Optimizer optimizer, bool resume) {
    ModuleLearner learner(module, std::move(call), std::make_shared<Classification>());
    return BitTrainer(learner, {.epochs = 1, .optimizer = optimizer}, {.best = {}, .checkpoint = path, .resume = resume})
        .fit(training);
  };
  Net net;
  using config::Optimizer;
  EXPECT_EQ(fit(net, nn::forward_of(net), Optimizer::kAdam, true).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(fit(net, nn::forward_of(net), Optimizer::kAdam, false).ok());
  const Error other = fit(net, nn::forward_of(net), Optimizer::kSgd, true).error();
  EXPECT_EQ(other.code, ErrorCode::kUnknownName) << other.message;
  EXPECT_NE(other.message.find("last.ckpt"), std::string::npos) << other.message;
  torch::nn::Linear linear(784, 10);
  const auto call = nn::forward_of([&](const at::Tensor& x) { return linear(x.flatten(1)); });
  EXPECT_EQ(fit(*linear, call, Optimizer::kAdam, true).error().code, ErrorCode::kUnknownName);
  ASSERT_TRUE(save_checkpoint({{"weight", torch::zeros({2})}}, path).ok());
  EXPECT_EQ(
      fit(net, nn::forward_of(net), Optimizer::kAdam, true).error().message,
      fmt::format("[train] a checkpoint of a training run, got none of 'progress.updates' (checkpoint={})", path.string()));
}

// --- hooks, in double

std::vector<at::Tensor> trained(const TrainingConfig& config, int64_t rows) {
  torch::manual_seed(6);
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  BitTrainer(learner, config).fit(std::make_shared<Rows>(rows)).value();
  return net.parameters();
}

// 29 samples: the last of four steps has five of them, in batches of 4 and 1.
TEST(Hooks, AccumulatedBatchesAreOneLargeBatch) {
  for (const auto optimizer :
       {config::Optimizer::kAdamW, config::Optimizer::kAdam, config::Optimizer::kSgd, config::Optimizer::kMuon}) {
    TrainingConfig large{
        .epochs = 3, .batch_size = 8, .optimizer = optimizer, .learning_rate = 0.05, .threads = 1, .clip_norm = 0.2};
    TrainingConfig small = large;
    small.batch_size = 4;
    small.accumulate = 2;
    const auto a = trained(large, 29), b = trained(small, 29);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::allclose(a[i], b[i], 1e-10, 1e-11)) << i;
    small.accumulate = 1;
    EXPECT_FALSE(torch::allclose(trained(small, 29)[0], a[0], 1e-3, 1e-4));
  }
}

TEST(Hooks, ClippingIsThatOfLibTorch) {
  for (const double limit : {0.05, 1e3}) {
    const TrainingConfig config{.epochs = 5,
                                .batch_size = 16,
                                .optimizer = config::Optimizer::kSgd,
                                .learning_rate = 0.5,
                                .schedule = config::Schedule::kConstant,
                                .warmup = 0,
                                .clip_norm = limit};
    const auto ours = trained(config, 16);
    torch::manual_seed(6);
    Small net;
    torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.5).momentum(0.9));
    std::vector<int64_t> all(16);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    const nn::NamedTensors batch = make_batch(Rows(16), all).value();
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      torch::cross_entropy_loss(net.forward(batch.at("x")), batch.at("label")).backward();
      torch::nn::utils::clip_grad_norm_(net.parameters(), limit);
      optimizer.step();
    }
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_TRUE(torch::allclose(ours[i], net.parameters()[i], 1e-5, 1e-7)) << limit << " " << i;
  }
}

// A hook may replace the loss: here by half of it, as distillation would add to it; and see every seam in order.
TEST(Hooks, SeamsComeInOrder) {
  struct Log : StepHook {
    std::string log;
    void before_forward(StepContext& s) override { log += s.outputs.empty() ? "f" : "?"; }
    void after_forward(StepContext& s) override {
      log += s.outputs.contains("output") ? "F" : "?";
      s.loss = s.loss / 2;
    }
    void before_backward(StepContext&) override { log += "b"; }
    void after_backward(StepContext& s) override { log += s.parameters[0].tensor.grad().defined() ? "B" : "?"; }
    void before_update(StepContext&) override { log += "u"; }
    void after_update(StepContext&) override { log += "U "; }
  };
  torch::manual_seed(6);
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  const auto log = std::make_shared<Log>();
  TrainerOptions options;
  options.hooks = {log};
  BitTrainer trainer(learner, {.accumulate = 2}, options);
  const std::vector<int64_t> indices{0, 1, 2};
  const nn::NamedTensors batch = make_batch(Rows(3), indices).value();
  const double loss = Classification().loss(learner.forward(batch), batch).item<double>();
  const auto first = trainer.step(batch).value();
  EXPECT_DOUBLE_EQ(first.loss, loss / 2);
  EXPECT_FALSE(first.updated);
  EXPECT_TRUE(trainer.step(batch).value().updated);
  EXPECT_TRUE(trainer.step(batch, true).value().updated);
  EXPECT_EQ(log->log, "fFbBfFbBuU fFbBuU ");
}

TEST(Learner, SetsTheBlendOfEveryKindOfLayer) {
  struct Plain : torch::nn::Module {
    at::Tensor blend = register_buffer("blend", torch::ones({}));
  };
  torch::nn::ModuleList net;
  net->push_back(nn::BitLinear(4, 4));
  net->push_back(nn::BitEmbedding(3, 4));
  net->push_back(nn::BitRMSNorm(nn::BitRMSNormOptions({4})));
  net->push_back(std::make_shared<Plain>());
  ModuleLearner learner(*net, nn::Forward(), std::make_shared<Classification>());
  learner.set_blend(0.25);
  const auto buffers = net->named_buffers();
  for (const auto& buffer : buffers)
    EXPECT_EQ(buffer.value().item<double>(), buffer.key() == "3.blend" ? 1.0 : 0.25) << buffer.key();
  EXPECT_EQ(buffers.size(), 4U);
}

}  // namespace
}  // namespace bitlab::train
