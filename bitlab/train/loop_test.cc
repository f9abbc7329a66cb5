// What the loop does around its steps: evaluations, the models and checkpoints that it keeps, when it ends, and what it says where it cannot go on.
#include <filesystem>
#include <set>

#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/device.h"
#include "bitlab/train/test_support.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

namespace fs = std::filesystem;
using test::Rows, test::Small;

// Metrics as a script says, one an evaluation; the loss is that of labels.
struct Scripted : Classification {
  mutable std::vector<double> script;
  explicit Scripted(std::vector<double> values) : script(std::move(values)) {}
  struct Score : Meter {
    double value;
    explicit Score(double v) : value(v) {}
    std::vector<double> measure(const nn::NamedTensors&, const nn::NamedTensors&) override { return {}; }
    size_t numbers() const override { return 0; }
    std::vector<Metric> metrics(const std::vector<double>&) const override {
      return {{"score", value}, {"other", 2 * value}};
    }
  };
  std::unique_ptr<Meter> meter() const override {
    const double next = script.at(0);
    script.erase(script.begin());
    return std::make_unique<Score>(next);
  }
  Goal goal() const override { return {"score", true}; }
};

class LoopTest : public ::testing::Test {
 protected:
  LoopTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_loop_{}", ::getpid())) {
    fs::create_directories(folder_);
    torch::manual_seed(6);
    net_ = std::make_unique<Small>();
  }
  ~LoopTest() override { fs::remove_all(folder_); }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.insert(entry.path().filename().string());
    return names;
  }
  // 20 rows in batches of 4: five steps an epoch.
  Result<TrainingReport> fit(const TrainingConfig& config, std::vector<double> script, TrainerOptions options = {}) {
    learner_ = std::make_unique<ModuleLearner>(*net_, std::make_shared<Scripted>(std::move(script)));
    return BitTrainer(*learner_, config, std::move(options)).fit(std::make_shared<Rows>(20), std::make_shared<Rows>(6));
  }

  fs::path folder_;
  std::unique_ptr<Small> net_;
  std::unique_ptr<ModuleLearner> learner_;
};

const TrainingConfig kLoop{.epochs = 8, .batch_size = 4, .learning_rate = 0.01, .threads = 1};

TrainingConfig with(void (*change)(TrainingConfig&)) {
  TrainingConfig config = kLoop;
  change(config);
  return config;
}

// 2.05 is better than 2, but not by more than 0.1: the third evaluation in a row that does not count is that of epoch 5.
TEST_F(LoopTest, EndsEarlyWhereNothingGetsBetter) {
  const auto config = with([](TrainingConfig& c) { c.patience = 3, c.min_delta = 0.1; });
  const auto report = fit(config, {1, 2, 1.5, 2.05, 2, 9, 9, 9}).value();
  EXPECT_EQ(report.epochs.size(), 5U);
  EXPECT_TRUE(report.stopped_early);
  EXPECT_EQ(report.best_epoch, 4);
  EXPECT_EQ(report.best_step, 20);
  EXPECT_EQ(report.best.at(0).value, 2.05);
  const auto whole = fit(config, {1, 2, 3, 3, 3, 4, 3, 3}).value();
  EXPECT_EQ(whole.epochs.size(), 8U);
  EXPECT_FALSE(whole.stopped_early);
  // NaN is worse than any number.
  const double nan = std::nan("");
  EXPECT_EQ(fit(config, {nan, -5, nan, nan, nan}).value().best_epoch, 2);
}

// Training on a device is tests/integration/device_test.py's.
TEST_F(LoopTest, TrainsOnTheDeviceThatItsConfigNames) {
  auto config = with([](TrainingConfig& c) { c.epochs = 1, c.device = "cpu"; });
  EXPECT_TRUE(fit(config, {1}).ok());
  EXPECT_FALSE(find_device("").value());
  for (const char* name : {"meta", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", "cuda:4294967296"}) {
    config.device = name;
    const Status refused = check(config);
    ASSERT_EQ(refused.error().code, ErrorCode::kInvalidArgument) << name;
    EXPECT_EQ(refused.error().message, fmt::format("[train] a device 'cpu', 'cuda' or 'cuda:<number>', got '{}'", name));
  }
  config.device = "cuda:3";
  EXPECT_TRUE(check(config).ok()) << "which need not be here";
  if (at::hasCUDA()) return;
  EXPECT_EQ(fit(config, {1}).error().code, ErrorCode::kUnsupported);
  BitTrainer steps(*learner_, config);
  EXPECT_EQ(steps.step({{"x", torch::zeros({2, 6})}}).error().code, ErrorCode::kUnsupported);
}

// What stood on the other device follows, gradients that nobody has used yet among it; a checkpoint is of the CPU.
TEST_F(LoopTest, ALearnerMovesItsTensorsInPlace) {
  EXPECT_EQ(device_of(std::vector<NamedParameter>()), at::Device(at::kCPU));
  if (!at::hasCUDA()) GTEST_SKIP() << "of the ctest entry torch_test_device";
  ModuleLearner learner(*net_, std::make_shared<Classification>());
  const std::vector<NamedParameter> before = learner.parameters();
  before[0].tensor.mutable_grad() = torch::ones_like(before[0].tensor);
  learner.to(at::kCUDA);
  EXPECT_TRUE(device_of(learner.parameters()).is_cuda());
  EXPECT_TRUE(before[0].tensor.is_same(learner.parameters()[0].tensor));
  EXPECT_TRUE(before[0].tensor.grad().is_cuda());
  ASSERT_TRUE(save_checkpoint(learner.state(), folder_ / "moved.ckpt").ok());
  for (const auto& [name, tensor] : load_checkpoint(folder_ / "moved.ckpt").value()) EXPECT_TRUE(tensor.is_cpu()) << name;
}

TEST_F(LoopTest, EvaluatesBySteps) {
  std::vector<std::pair<int64_t, int64_t>> seen;
  TrainerOptions options{.best = folder_ / "best.ckpt"};
  State best;
  options.on_evaluation = [&](const EvaluationReport& r) {
    seen.emplace_back(r.epoch, r.step);
    EXPECT_TRUE(!net_->is_training());
    if (r.step == 6) best = learner_->state();
  };
  const auto config = with([](TrainingConfig& c) { c.epochs = 2, c.evaluate_steps = 3; });
  const auto report = fit(config, {1, 4, 2, 3}, options).value();
  EXPECT_EQ(seen, (std::vector<std::pair<int64_t, int64_t>>{{1, 3}, {2, 6}, {2, 9}, {2, 10}}));
  EXPECT_EQ(report.evaluations.size(), 4U);
  EXPECT_EQ(report.epochs.at(0).metrics.at(0).value, 1);
  EXPECT_EQ(report.epochs.at(1).metrics.at(0).value, 3) << "the last of the epoch";
  EXPECT_EQ(report.best_step, 6);
  for (const auto& [name, tensor] : load_checkpoint(folder_ / "best.ckpt").value()) {
    EXPECT_TRUE(torch::equal(tensor, best.at(name))) << name;
    EXPECT_TRUE(torch::equal(tensor, learner_->state().at(name))) << "what the learner has at the end: " << name;
  }
  // A stall is noticed in the midst of an epoch: after steps 1, 2 and 3.
  const auto early = fit(with([](TrainingConfig& c) { c.evaluate_steps = 1, c.patience = 2; }), {3, 2, 1, 9}).value();
  EXPECT_EQ(early.evaluations.size(), 3U);
  EXPECT_EQ(early.epochs.size(), 1U);
  EXPECT_EQ(early.epochs[0].metrics.at(0).value, 1);
}

TEST_F(LoopTest, TimesItsPhases) {
  const auto report = fit(with([](TrainingConfig& c) { c.epochs = 2; }), {1, 2}).value();
  for (EpochReport epoch : report.epochs) {
    double sum = 0;
    epoch.phases.each([&](const char* phase, double seconds) {
      EXPECT_GT(seconds, 0) << phase;
      sum += seconds;
    });
    EXPECT_LE(sum, epoch.seconds);
  }
}

TEST_F(LoopTest, KeepsSeveralOfTheBest) {
  std::map<int64_t, State> states;
  TrainerOptions options{.best = folder_ / "best.ckpt"};
  options.on_evaluation = [&](const EvaluationReport& r) { states[r.step] = learner_->state(); };
  const auto config = with([](TrainingConfig& c) { c.keep_best = 3; });
  ASSERT_TRUE(fit(config, {3, 1, 4, 1, 5, 9, 2, 6}, options).ok());
  // The best are those of the epochs 6, 8 and 5, five steps each.
  EXPECT_EQ(files(), (std::set<std::string>{"best.ckpt", "best-000025.ckpt", "best-000030.ckpt", "best-000040.ckpt"}));
  for (const int64_t step : {25, 30, 40})
    for (const auto& [name, tensor] : load_checkpoint(folder_ / fmt::format("best-{:06}.ckpt", step)).value())
      EXPECT_TRUE(torch::equal(tensor, states.at(step).at(name))) << step << name;
  EXPECT_EQ(read_file(folder_ / "best.ckpt").value(), read_file(folder_ / "best-000030.ckpt").value());
  // Of equals the first.
  fs::remove_all(folder_), fs::create_directories(folder_);
  ASSERT_TRUE(fit(config, {1, 1, 1, 1, 1, 1, 1, 0}, options).ok());
  EXPECT_EQ(files(), (std::set<std::string>{"best.ckpt", "best-000005.ckpt", "best-000010.ckpt", "best-000015.ckpt"}));
}

TEST_F(LoopTest, KeepsSeveralCheckpointsAndGoesOnFromAnyOfThem) {
  const std::vector<double> script{1, 2, 3, 4, 5, 6, 7, 8};
  const fs::path last = folder_ / "last.ckpt";
  const auto config = with([](TrainingConfig& c) { c.keep_last = 3, c.checkpoint_steps = 2, c.epochs = 3; });
  ASSERT_TRUE(fit(config, script, {.checkpoint = last}).ok());
  const State whole = learner_->state();
  // After steps 2, 4, 5, 6, 8, 10 (twice), 12, 14, 15.
  EXPECT_EQ(files(), (std::set<std::string>{"last.ckpt", "last-000012.ckpt", "last-000014.ckpt", "last-000015.ckpt"}));
  EXPECT_EQ(read_file(last).value(), read_file(folder_ / "last-000015.ckpt").value());
  for (const int64_t step : {14, 12}) {
    fs::copy_file(folder_ / fmt::format("last-{:06}.ckpt", step), last, fs::copy_options::overwrite_existing);
    net_ = std::make_unique<Small>();
    ASSERT_TRUE(fit(config, {3}, {.checkpoint = last, .resume = true}).ok()) << step;
    for (const auto& [name, tensor] : learner_->state()) EXPECT_TRUE(torch::equal(tensor, whole.at(name))) << step << name;
    EXPECT_EQ(files().size(), 4U);
  }
}

TEST_F(LoopTest, StopsWhereItIsAskedToAndGoesOn) {
  const auto config = with([](TrainingConfig& c) { c.epochs = 3, c.accumulate = 2; });  // three updates an epoch
  ASSERT_TRUE(fit(config, {1, 2, 3}).ok());
  const State whole = learner_->state();
  const fs::path last = folder_ / "last.ckpt";
  for (const int64_t update : {1, 3, 8}) {
    torch::manual_seed(6);
    net_ = std::make_unique<Small>();
    TrainerOptions options{.checkpoint = last};
    options.stop = [count = int64_t{0}, update]() mutable { return ++count == update; };
    const Error error = fit(config, {1, 2, 3}, options).error();
    EXPECT_EQ(error.code, ErrorCode::kCancelled);
    // Batches 2, 4 and 5 of an epoch end an update.
    const char* place = update == 1 ? "(epoch=1, step=2)" : update == 3 ? "(epoch=1, step=5)" : "(epoch=3, step=4)";
    EXPECT_EQ(error.message, fmt::format("[train] a run to its end, got a request to stop {}", place));
    net_ = std::make_unique<Small>();
    std::vector<double> rest{1, 2, 3};
    rest.erase(rest.begin(), rest.begin() + (update - 1) / 3);
    ASSERT_TRUE(fit(config, rest, {.checkpoint = last, .resume = true}).ok());
    for (const auto& [name, tensor] : learner_->state()) EXPECT_TRUE(torch::equal(tensor, whole.at(name))) << name;
  }
}

TEST_F(LoopTest, RefusesWhatNeedsMore) {
  const auto message = [&](void (*change)(TrainingConfig&)) { return fit(with(change), {}).error().message; };
  EXPECT_EQ(message([](TrainingConfig& c) { c.patience = -1; }), "[config] a number in [0, inf) for 'patience', got -1");
  EXPECT_EQ(message([](TrainingConfig& c) { c.keep_best = 0; }), "[config] a number in [1, inf) for 'keep_best', got 0");
  EXPECT_EQ(message([](TrainingConfig& c) { c.label_smoothing = 1; }),
            "[config] a number in [0, 1) for 'label_smoothing', got 1.0");
  EXPECT_EQ(message([](TrainingConfig& c) { c.mixup = -1; }), "[config] a number in [0, inf) for 'mixup', got -1.0");
  EXPECT_EQ(BitTrainer(*learner_, {.patience = 1}).fit(std::make_shared<Rows>(3)).error().message,
            "[train] validation samples for patience, evaluate_steps and keep_best, got none");
  // Before an epoch is spent.
  TrainerOptions options{.checkpoint = folder_ / "none" / "last.ckpt"};
  options.on_step = [](const StepReport&) { FAIL(); };
  const Error error = fit(kLoop, {}, options).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_NE(error.message.find("none"), std::string::npos) << error.message;
}

// --- what is not finite

// Rows, of which one has a NaN if it is asked for; and which were read last.
struct Watched : Rows {
  int64_t broken;
  mutable std::vector<int64_t> read;
  Watched(int64_t n, int64_t broken_row) : Rows(n), broken(broken_row) {}
  Result<data::Sample> get(int64_t index) const override {
    if (read.size() == 4) read.clear();
    read.push_back(index);
    data::Sample sample = Rows::get(index).value();
    if (index == broken) {
      const std::vector<float> x{0, 0, std::nanf(""), 0, 0, 0};
      sample.arrays[0] = data::Array::of<float>("x", {6}, x);
    }
    return sample;
  }
};

// A layer, an operation without parameters, a layer; with a mask of -inf as attention has them.
struct Breaks : torch::nn::Module {
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
  int64_t calls = 0, breaks_at = 3;
  enum { kNot, kOverflow, kLog } how = kNot;
  Breaks() {
    fc1 = register_module("fc1", torch::nn::Linear(6, 5));
    fc2 = register_module("fc2", torch::nn::Linear(5, 4));
  }
  at::Tensor forward(const at::Tensor& x) {
    ++calls;
    const bool breaks = calls >= breaks_at;
    const at::Tensor mask = torch::ones({5}, at::kBool).index_fill(0, torch::tensor({0}), false);
    at::Tensor h = torch::softmax(fc1(x).masked_fill(mask, -INFINITY), 1) + fc1(x);
    if (breaks && how == kLog) h = torch::log(h - 1e3);
    return fc2(breaks && how == kOverflow ? h * 0 + 3e38 : h) * 10;
  }
};

std::string error_of(Breaks& net, const Watched& rows) {
  ModuleLearner learner(net, std::make_shared<Classification>());
  const TrainingConfig config{.batch_size = 4, .learning_rate = 1e-4, .threads = 1};
  const Error error = BitTrainer(learner, config).fit(std::make_shared<Watched>(rows)).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFinite);
  return error.message;
}

TEST(NotFiniteLoss, SaysWhereItBegins) {
  torch::manual_seed(1);
  const auto expect = [](const std::string& message, const std::string& text) {
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  Breaks overflow, logarithm, parameter, fine;
  overflow.how = Breaks::kOverflow;
  torch::nn::init::constant_(overflow.fc2->weight, 1.0);
  expect(error_of(overflow, Watched(20, -1)),
         "it begins in layer 'fc2' (addmm); a lower learning_rate may help (epoch=1, step=3,");
  logarithm.how = Breaks::kLog;
  expect(error_of(logarithm, Watched(20, -1)), "it begins in log, behind layer 'fc1'; a lower");
  torch::nn::init::constant_(parameter.fc2->bias, std::nan(""));
  expect(error_of(parameter, Watched(20, -1)), "got nan: the parameter 'fc2.bias' has one already; a lower");
  const auto rows = std::make_shared<Watched>(20, 7);
  ModuleLearner learner(fine, std::make_shared<Classification>());
  const TrainingConfig config{.batch_size = 4, .learning_rate = 1e-4, .threads = 1};
  const std::string message = BitTrainer(learner, config).fit(rows).error().message;
  expect(message, "the batch's 'x' has one; a lower");
  expect(message, fmt::format("samples=[{}])", fmt::join(rows->read, ", ")));
  EXPECT_NE(std::find(rows->read.begin(), rows->read.end(), 7), rows->read.end());
}

}  // namespace
}  // namespace bitlab::train
