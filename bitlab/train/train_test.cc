// The trainer on data that it can learn, against LibTorch's own loop, and where it must refuse.
#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/config/io.h"
#include "bitlab/models/vision/mlp.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/internal/schedule.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

namespace fs = std::filesystem;

class TrainTest : public ::testing::Test {
 protected:
  TrainTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_train_{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~TrainTest() override { fs::remove_all(folder_); }

  static data::DatasetPtr synthetic(data::Split split, int64_t limit) {
    return data::load_dataset("synthetic", split, {.root = {}, .limit = limit}).value();
  }
  static std::shared_ptr<models::Model> make(const BitQuantConfig& quant = {}, std::vector<int64_t> hidden = {64, 32}) {
    torch::manual_seed(1);
    return models::make_model(models::MlpConfig{.hidden = std::move(hidden)}, {.quant = quant}).value();
  }
  static at::Tensor logits_of(Learner& learner, const data::DatasetPtr& set) {
    std::vector<at::Tensor> parts;
    EvaluateOptions options{.batch_size = 64};
    options.on_batch = [&](const nn::NamedTensors& outputs, const nn::NamedTensors&) {
      parts.push_back(outputs.at("output"));
    };
    evaluate(learner, set, options).value();
    return torch::cat(parts);
  }
  fs::path folder_;
};

TEST_F(TrainTest, LayersTurnTernaryStepByStep) {
  const TrainingConfig config{.epochs = 2, .batch_size = 50, .ternary_warmup = 0.5, .threads = 1};
  EXPECT_EQ(ternary_share(config, 0, 40), 0.0);
  EXPECT_EQ(ternary_share(config, 10, 40), 0.5);
  EXPECT_EQ(ternary_share(config, 20, 40), 1.0);
  EXPECT_EQ(ternary_share(config, 39, 40), 1.0);
  EXPECT_EQ(ternary_share({}, 0, 40), 1.0);
  const auto training = synthetic(data::Split::kTrain, 1000), validation = synthetic(data::Split::kTest, 100);
  const auto model = make();
  Classifier learner(*model);
  std::vector<double> shares;
  const auto blend = [&] { return model->named_buffers().begin()->value().item<double>(); };
  TrainerOptions options;
  options.on_step = [&](const StepReport&) { shares.push_back(blend()); };
  BitTrainer trainer(learner, config, options);
  ASSERT_TRUE(trainer.fit(training, validation).ok());
  ASSERT_EQ(shares.size(), 40U);
  for (size_t i = 0; i < shares.size(); ++i) EXPECT_DOUBLE_EQ(shares[i], std::min(1.0, static_cast<double>(i) / 20));
  EXPECT_EQ(blend(), 1.0);
  BitTrainer wrong(learner, {.ternary_warmup = 2}, {});
  EXPECT_EQ(wrong.fit(training, validation).error().message, "[config] a number in [0, 1] for 'ternary_warmup', got 2.0");
}

TEST_F(TrainTest, LearnsAndKeepsTheBestEpoch) {
  const auto training = synthetic(data::Split::kTrain, 1000), validation = synthetic(data::Split::kTest, 256);
  const auto model = make({}, {512, 512});
  Classifier learner(*model);
  int64_t steps = 0, epochs = 0;
  TrainerOptions options{.best = folder_ / "best.ckpt"};
  options.on_step = [&](const StepReport&) { ++steps; };
  options.on_epoch = [&](const EpochReport&) { ++epochs; };
  BitTrainer trainer(learner, {.epochs = 8, .batch_size = 60, .threads = 1}, options);
  const double before = evaluate(learner, validation).value().at("accuracy");
  const TrainingReport report = trainer.fit(training, validation).value();
  EXPECT_EQ(steps, 8 * 17);
  EXPECT_EQ(epochs, 8);
  ASSERT_EQ(report.best.at(0).name, "accuracy");
  EXPECT_EQ(report.best_by, "accuracy");
  EXPECT_GT(report.best[0].value, std::max(0.9, before));
  for (const EpochReport& epoch : report.epochs) {
    EXPECT_LE(epoch.metrics.at(0).value, report.best[0].value);
    if (epoch.epoch < report.best_epoch) {
      EXPECT_LT(epoch.metrics[0].value, report.best[0].value);
    }
  }
  EXPECT_LT(report.epochs.back().loss, report.epochs.front().loss);
  EXPECT_EQ(evaluate(learner, validation).value().at("accuracy"), report.best[0].value);
  // The checkpoint holds that state.
  const auto other = make({}, {512, 512});
  Classifier loaded(*other);
  ASSERT_TRUE(loaded.load(load_checkpoint(folder_ / "best.ckpt").value()).ok());
  EXPECT_TRUE(torch::equal(logits_of(loaded, validation), logits_of(learner, validation)));
}

TEST_F(TrainTest, IsDeterministic) {
  const auto training = synthetic(data::Split::kTrain, 200);
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> logits;
  for (const int64_t workers : {0, 0, 3}) {
    const auto model = make();
    Classifier learner(*model);
    TrainerOptions options;
    options.transforms = {data::random_crop(2), data::random_flip()};
    BitTrainer(learner, {.epochs = 2, .batch_size = 32, .threads = 1, .workers = workers}, options).fit(training).value();
    EXPECT_EQ(at::get_num_threads(), threads) << "as it was";
    logits.push_back(logits_of(learner, training));
  }
  EXPECT_TRUE(torch::equal(logits[0], logits[1]));
  EXPECT_TRUE(torch::equal(logits[0], logits[2])) << "whatever prepares the batches";
}

// One sample, so that order does not matter: the loop must be LibTorch's optimizer under the schedule.
TEST_F(TrainTest, StepsAsTheOptimizersOfLibTorchDo) {
  const auto training = synthetic(data::Split::kTrain, 1);
  for (auto kind : {config::Optimizer::kAdamW, config::Optimizer::kAdam, config::Optimizer::kSgd}) {
    const TrainingConfig config{.epochs = 4,
                                .optimizer = kind,
                                .learning_rate = 0.01,
                                .nesterov = kind == config::Optimizer::kSgd,
                                .beta1 = 0.8,
                                .beta2 = 0.99,
                                .epsilon = 1e-7,
                                .weight_decay = 0.1,
                                .warmup = 0.25,
                                .threads = 1};
    const auto ours = make(BitQuantConfig::none()), theirs = make(BitQuantConfig::none());
    Classifier learner(*ours);
    BitTrainer(learner, config).fit(training).value();

    std::vector<at::Tensor> matrices, vectors;
    for (const at::Tensor& p : theirs->parameters()) (p.dim() > 1 ? matrices : vectors).push_back(p);
    std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers;
    const auto adam_like = [](auto options, double decay) {
      return options.betas({0.8, 0.99}).eps(1e-7).weight_decay(decay);
    };
    for (const auto& [tensors, decay] : {std::pair(matrices, 0.1), std::pair(vectors, 0.0)}) {
      using namespace torch::optim;
      if (kind == config::Optimizer::kAdamW)
        optimizers.push_back(std::make_unique<AdamW>(tensors, adam_like(AdamWOptions(), decay)));
      else if (kind == config::Optimizer::kAdam)
        optimizers.push_back(std::make_unique<Adam>(tensors, adam_like(AdamOptions(), decay)));
      else
        optimizers.push_back(std::make_unique<SGD>(tensors, SGDOptions(1).momentum(0.9).nesterov(true).weight_decay(decay)));
    }
    const int64_t only = 0;
    const nn::NamedTensors batch = make_batch(*training, {&only, 1}).value();
    const double rates[] = {0.01, 0.01, 0.01 * 0.75, 0.01 * 0.25};  // one step of warm-up, then cos(0, 60, 120 degrees)
    for (double rate : rates) {
      for (auto& optimizer : optimizers) {
        optimizer->zero_grad();
        for (auto& group : optimizer->param_groups()) group.options().set_lr(rate);
      }
      at::cross_entropy_loss(theirs->forward(batch.at("image")), batch.at("label")).backward();
      for (auto& optimizer : optimizers) optimizer->step();
    }
    const auto a = ours->parameters(), b = theirs->parameters();
    for (size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(torch::allclose(a[i], b[i], 1e-6, 1e-7)) << name(kind) << " parameter " << i;
  }
}

// A step moves each parameter as far as its rule says: sgd without momentum, so that the ratio of two steps is that of their rates.
TEST_F(TrainTest, RulesGiveParametersRatesAndDecayOfTheirOwn) {
  const auto training = synthetic(data::Split::kTrain, 1);
  const auto moved = [&](std::vector<ParameterRule> rules, double decay) {
    const auto model = make(BitQuantConfig::none());
    const State before = Classifier(*model).state();
    Classifier learner(*model);
    BitTrainer(learner, {.epochs = 1,
                         .optimizer = config::Optimizer::kSgd,
                         .learning_rate = 0.1,
                         .momentum = 0,
                         .weight_decay = decay,
                         .parameters = std::move(rules),
                         .warmup = 0,
                         .threads = 1})
        .fit(training)
        .value();
    State steps = learner.state();
    for (auto& [name, tensor] : steps) tensor = (before.at(name) - tensor).to(at::kDouble);
    return std::pair(before, steps);
  };
  const auto [start, plain] = moved({}, 0);
  const auto [same, ruled] =
      moved({{.path = "fc1.*", .rate = 0}, {.path = "/bias$/", .decay = 2}, {.path = "fc2.weight", .rate = 0.5}}, 0.1);
  const auto expect = [&](const std::string& name, double rate, double decay) {
    const at::Tensor expected = rate * (plain.at(name) + 0.1 * decay * start.at(name).to(at::kDouble));
    EXPECT_TRUE(torch::allclose(ruled.at(name), expected, 1e-4, 2e-7)) << name;
  };
  expect("fc1.weight", 0, 0);
  expect("fc1.bias", 0, 0);
  expect("fc2.weight", 0.5, 0.1);
  expect("fc2.bias", 1, 0.2);
  const auto model = make();
  Classifier learner(*model);
  EXPECT_EQ(BitTrainer(learner, {.parameters = {{.path = "x", .rate = -1}}}).fit(training).error().message,
            "[config] a number in [0, inf) for 'parameters[0].rate', got -1.0");
}

// The other schedules are compared with those of PyTorch in python/tests/test_training.py.
TEST_F(TrainTest, TwoPhasesDropInTheMiddle) {
  const TrainingConfig config{.learning_rate = 3, .schedule = config::Schedule::kTwoPhase, .warmup = 0, .step_factor = 0.5};
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 10), 3);
  EXPECT_DOUBLE_EQ(learning_rate(config, 4, 10), 3 * 0.6);
  EXPECT_DOUBLE_EQ(learning_rate(config, 5, 10), 3 * 0.5 * 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 9, 10), 3 * 0.1 * 0.5);
  EXPECT_EQ(decay_share(config, 4, 10), 1);
  EXPECT_EQ(decay_share(config, 5, 10), 0);
  EXPECT_EQ(decay_share({}, 9, 10), 1);
}

TEST_F(TrainTest, ScheduleWarmsUpAndEndsLow) {
  const TrainingConfig config{.learning_rate = 1.0, .warmup = 0.2};
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 10), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 2, 10), 1.0);
  EXPECT_NEAR(learning_rate(config, 6, 10), 0.5, 1e-12);
  EXPECT_LT(learning_rate(config, 9, 10), 0.05);
  EXPECT_DOUBLE_EQ(learning_rate({.learning_rate = 3, .schedule = config::Schedule::kConstant, .warmup = 0}, 9, 10), 3.0);
}

TEST_F(TrainTest, BatchesHoldNormalizedSamples) {
  const auto set = synthetic(data::Split::kTest, 8);
  const std::vector<int64_t> indices{5, 2};
  const nn::NamedTensors batch = make_batch(*set, indices).value();
  EXPECT_EQ(batch.names(), "image, label");
  EXPECT_EQ(batch.at("image").sizes(), at::IntArrayRef({2, 1, 28, 28}));
  const data::Preprocess preprocess = set->preprocess();
  for (size_t i = 0; i < 2; ++i) {
    const data::Sample sample = set->get(indices[i]).value();
    EXPECT_EQ(batch.at("label")[static_cast<int64_t>(i)].item<int64_t>(), sample.find("label")->values<int64_t>()[0]);
    const auto& bytes = sample.find("image")->bytes;
    const auto pixels = torch::tensor(std::vector<int64_t>(bytes.begin(), bytes.end())).to(at::kDouble);
    const auto expected = (pixels / 255 - preprocess.image()->mean[0]) / preprocess.image()->std[0];
    EXPECT_TRUE(torch::allclose(batch.at("image")[static_cast<int64_t>(i)].flatten().to(at::kDouble), expected, 1e-5, 1e-6));
  }
  const std::vector<int64_t> beyond{8};
  EXPECT_EQ(make_batch(*set, beyond).error().message, "[data] indices from 0 to 7, got 8");
}

TEST_F(TrainTest, RefusesWhatCannotBe) {
  const auto training = synthetic(data::Split::kTrain, 16);
  const auto model = make(BitQuantConfig::none());
  Classifier learner(*model);
  EXPECT_EQ(BitTrainer(learner, {.epochs = 0}).fit(training).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(BitTrainer(learner, {.learning_rate = -1}).fit(training).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(BitTrainer(learner, {.accumulate = 0}).fit(training).error().message,
            "[config] a number in [1, inf) for 'accumulate', got 0");
  EXPECT_EQ(BitTrainer(learner, {}).fit(data::first(training, 0)).error().message, "[loader] at least one sample, got none");
  const Error error =
      BitTrainer(learner, {.epochs = 50, .optimizer = config::Optimizer::kSgd, .learning_rate = 1e30}).fit(training).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFinite);
  EXPECT_NE(error.message.find("(epoch="), std::string::npos) << error.message;
  const auto fresh = make();
  Classifier other(*fresh);
  EXPECT_EQ(BitTrainer(other, {.epochs = 1}, {.best = folder_ / "none" / "best.ckpt"}).fit(training).error().code,
            ErrorCode::kNotFound);
  ModuleLearner lost(*fresh, std::make_shared<Classification>("logits"));
  EXPECT_EQ(BitTrainer(lost, {.epochs = 1}).fit(training).error().message, "[tensors] one called 'logits', got [output]");
}

TEST_F(TrainTest, CheckpointsThatDoNotFitAreRefused) {
  const auto model = make();
  Classifier learner(*model);
  State state = learner.state();
  state.erase("fc1.weight");
  EXPECT_EQ(learner.load(state).error().message, "[train] every parameter of the model, got none for 'fc1.weight'");
  state["fc1.weight"] = torch::zeros({2, 2});
  EXPECT_EQ(learner.load(state).error().code, ErrorCode::kShapeMismatch);
  ASSERT_TRUE(write_file_atomic(folder_ / "broken.ckpt", std::string_view("not a checkpoint")).ok());
  EXPECT_EQ(load_checkpoint(folder_ / "broken.ckpt").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(load_checkpoint(folder_ / "none.ckpt").error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace bitlab::train
