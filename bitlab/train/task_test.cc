// Tasks and their metrics against formulas in double; networks of several inputs, outputs and losses; many classes; text.
#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/models/vision/mlp.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

// What a task's meter measures over several batches.
struct Sums {
  std::unique_ptr<Meter> meter;
  std::vector<double> sums;
  explicit Sums(const Task& task) : meter(task.meter()), sums(meter->numbers(), 0) {}
  void add(const nn::NamedTensors& outputs, const nn::NamedTensors& batch) {
    const std::vector<double> own = meter->measure(outputs, batch);
    ASSERT_EQ(own.size(), sums.size());
    for (size_t i = 0; i < own.size(); ++i) sums[i] += own[i];
  }
  double metric(const std::string& name) const { return Evaluation{0, meter->metrics(sums)}.at(name); }
};

// The mean of -log softmax at the labels, by its definition.
double cross_entropy(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor x = logits.to(at::kDouble).reshape({-1, logits.size(-1)}), y = labels.flatten();
  double sum = 0;
  for (int64_t i = 0; i < y.numel(); ++i) {
    double exponentials = 0;
    for (int64_t c = 0; c < x.size(1); ++c) exponentials += std::exp(x[i][c].item<double>());
    sum += std::log(exponentials) - x[i][y[i].item<int64_t>()].item<double>();
  }
  return sum / static_cast<double>(y.numel());
}

// Metrics over batches of different sizes are those of all samples together.
TEST(Tasks, MetricsAreThoseOfAllSamples) {
  torch::manual_seed(1);
  const at::Tensor logits = torch::randn({7, 5}), labels = torch::randint(5, {7});
  const at::Tensor words = torch::randn({7, 3, 5}), next = torch::randint(5, {7, 3});
  const at::Tensor values = torch::randn({7, 2, 2}), targets = torch::randn({7, 2, 2});
  const Classification classification;
  const NextToken language("words");
  const Regression regression("values");
  Sums a(classification), b(language), c(regression);
  for (const auto& [begin, size] : {std::pair<int64_t, int64_t>{0, 4}, {4, 1}, {5, 2}}) {
    const auto part = [&, begin = begin, size = size](const at::Tensor& t) { return t.narrow(0, begin, size); };
    const nn::NamedTensors outputs{{"output", part(logits)}, {"words", part(words)}, {"values", part(values)}};
    const nn::NamedTensors batch{{"label", part(labels)}, {"next", part(next)}, {"target", part(targets)}};
    for (Sums* sums : {&a, &b, &c}) sums->add(outputs, batch);
    EXPECT_EQ(classification.items(batch), size);
    EXPECT_EQ(language.items(batch), 3 * size);
    EXPECT_EQ(regression.items(batch), 4 * size);
  }
  double right = 0;
  for (int64_t i = 0; i < 7; ++i) right += logits[i].argmax().item<int64_t>() == labels[i].item<int64_t>() ? 1 : 0;
  EXPECT_DOUBLE_EQ(a.metric("accuracy"), right / 7);
  EXPECT_NEAR(a.metric("loss"), cross_entropy(logits, labels), 1e-6);
  EXPECT_NEAR(b.metric("perplexity"), std::exp(cross_entropy(words, next)), 1e-4);
  EXPECT_NEAR(c.metric("mse"), (values.to(at::kDouble) - targets.to(at::kDouble)).square().mean().item<double>(), 1e-6);
  EXPECT_THROW(a.metric("perplexity"), Exception);
  EXPECT_TRUE(Goal({"accuracy", true}).better(0.9, 0.8));
  EXPECT_FALSE(Goal({"mse", false}).better(0.9, 0.8));
}

// Tokens that nobody asks for count neither in the loss nor in its mean.
TEST(Tasks, TokensThatAreLeftOut) {
  torch::manual_seed(9);
  const at::Tensor logits = torch::randn({2, 4, 5}), next = torch::randint(5, {2, 4}), kept = next.clone();
  kept[0][3] = kept[1][2] = kept[1][3] = NextToken::kNoToken;
  const at::Tensor asked = kept.flatten().ne(NextToken::kNoToken);
  const nn::NamedTensors outputs{{"output", logits}}, batch{{"next", kept}};
  const NextToken task;
  EXPECT_EQ(task.items(batch), 5);
  EXPECT_NEAR(task.loss(outputs, batch).item<double>(),
              cross_entropy(logits.flatten(0, 1).index({asked}), next.flatten().index({asked})), 1e-6);
}

// Pictures and tokens in, a digit and a value out.
struct TwoHeads : torch::nn::Module {
  nn::BitLinear image = register_module("image", nn::BitLinear(16, 24));
  nn::BitEmbedding tokens = register_module("tokens", nn::BitEmbedding(10, 24));
  nn::BitLinear digit = register_module("digit", nn::BitLinear(24, 4)),
                value = register_module("value", nn::BitLinear(24, 1));

  nn::NamedTensors forward(const nn::NamedTensors& x) {
    const at::Tensor h = torch::relu(image(x.at("image").flatten(1)) + tokens(x.at("ids")).mean(1));
    return {{"digit", digit(h)}, {"value", value(h).squeeze(1)}};
  }
};

// The digit is the brightest quarter of the picture; the value is the mean of the tokens, 0 to 9.
class Quarters : public data::Dataset {
 public:
  explicit Quarters(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Result<data::Sample> get(int64_t index) const override {
    data::Random random(7, 0, static_cast<uint64_t>(index));
    const int64_t digit = random.between(0, 3);
    std::vector<float> pixels;
    for (int64_t i = 0; i < 16; ++i)
      pixels.push_back(static_cast<float>(random.between(0, 9) + (i / 4 == digit ? 10 : 0)) / 10);
    std::vector<int64_t> ids;
    float sum = 0;
    for (int i = 0; i < 3; ++i) ids.push_back(random.between(0, 9)), sum += static_cast<float>(ids.back());
    const float value = sum / 30;
    using data::Array;
    return data::Sample{{Array::of<float>("image", {1, 4, 4}, pixels), Array::of<int64_t>("ids", {3}, ids),
                         Array::of<int64_t>("label", {}, std::span(&digit, 1)),
                         Array::of<float>("target", {}, std::span(&value, 1))}};
  }

 private:
  int64_t size_;
};

TEST(Tasks, TwoInputsTwoOutputsTwoLosses) {
  torch::manual_seed(2);
  TwoHeads net;
  const auto task = std::make_shared<MultiTask>(std::vector<MultiTask::Part>{
      {"digit", std::make_shared<Classification>("digit"), 1.0}, {"value", std::make_shared<Regression>("value"), 4.0}});
  ModuleLearner learner(net, task);
  const auto training = std::make_shared<Quarters>(400), validation = std::make_shared<Quarters>(100);
  const Evaluation before = evaluate(learner, validation).value();
  const TrainingReport report =
      BitTrainer(learner, {.epochs = 12, .batch_size = 20, .learning_rate = 1e-2, .threads = 1, .workers = 2})
          .fit(training, validation)
          .value();
  const Evaluation after = evaluate(learner, validation).value();
  EXPECT_GT(after.at("digit.accuracy"), 0.9);
  EXPECT_LT(after.at("value.mse"), 0.3 * before.at("value.mse"));
  EXPECT_NEAR(after.at("loss"), after.at("digit.loss") + 4 * after.at("value.mse"), 1e-6);
  double best = 1e9;
  for (const EpochReport& epoch : report.epochs) best = std::min(best, Evaluation{0, epoch.metrics}.at("loss"));
  EXPECT_EQ(after.at("loss"), best) << "the goal chooses the epoch";
}

// One of several processes, which run one after the other here: what all of them together have is known after the first round.
struct InTurn : Peers {
  int64_t own, count;
  std::vector<at::Tensor>& told;
  InTurn(int64_t rank, int64_t size, std::vector<at::Tensor>& all) : own(rank), count(size), told(all) {}
  int64_t rank() const override { return own; }
  int64_t size() const override { return count; }
  std::function<void()> begin_sum(at::Tensor values) override {
    told.push_back(values.clone());
    if (told.size() <= static_cast<size_t>(count)) return [] {};
    values.zero_();
    for (int64_t i = 0; i < count; ++i) values.add_(told[static_cast<size_t>(i)]);
    return [] {};
  }
  void broadcast(at::Tensor) override { FAIL(); }
  at::Tensor gather(const at::Tensor& values) override { return values; }
};

// Whatever part of the batches each has, none where there are fewer of them than processes.
TEST(Tasks, ProcessesShareAnEvaluationToTheSameBits) {
  torch::manual_seed(5);
  TwoHeads net;
  ModuleLearner learner(net, std::make_shared<MultiTask>(
                                 std::vector<MultiTask::Part>{{"digit", std::make_shared<Classification>("digit"), 1.0},
                                                              {"value", std::make_shared<Regression>("value"), 4.0}}));
  const auto set = std::make_shared<Quarters>(23);
  for (const int64_t batch_size : {4, 23, 5}) {
    const Evaluation whole = evaluate(learner, set, {.batch_size = batch_size}).value();
    for (const int64_t processes : {2, 3, 7}) {
      std::vector<at::Tensor> told;
      int64_t samples = 0;
      for (int64_t turn = 0; turn < 2 * processes; ++turn) {
        EvaluateOptions options{.batch_size = batch_size,
                                .workers = turn % 2,
                                .peers = std::make_shared<InTurn>(turn % processes, processes, told)};
        options.on_batch = [&](const auto&, const nn::NamedTensors& batch) { samples += batch.at("label").numel(); };
        const Evaluation own = evaluate(learner, set, options).value();
        if (turn < processes) continue;
        EXPECT_EQ(own.samples, 23);
        for (const Metric& metric : whole.metrics) EXPECT_EQ(own.at(metric.name), metric.value) << metric.name;
      }
      EXPECT_EQ(samples, 2 * 23) << "each sample once a round";
    }
  }
}

TEST(Tasks, AThousandClasses) {
  torch::manual_seed(3);
  data::ImageSpec spec{1, 4, 8, {0.5F}, {0.5F}, {}};
  for (int i = 0; i < 1000; ++i) spec.labels.push_back(std::to_string(i));
  std::vector<uint8_t> pixels;
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 64; ++i) {
    labels.push_back(i % 2 == 0 ? 999 - i : i);
    for (int64_t bit = 0; bit < 32; ++bit) pixels.push_back((labels.back() >> (bit % 10) & 1) != 0 ? 255 : 0);
  }
  const auto set = data::ImageDataset::create(spec, pixels, labels).value();
  const auto model = models::make_model(models::MlpConfig{.height = 4, .width = 8, .classes = 1000, .hidden = {64}}).value();
  Classifier learner(*model);
  at::Tensor seen;
  EvaluateOptions options{.batch_size = 64};
  options.on_batch = [&](const nn::NamedTensors&, const nn::NamedTensors& batch) { seen = batch.at("label"); };
  const double before = evaluate(learner, set, options).value().at("accuracy");
  EXPECT_EQ(seen.max().item<int64_t>(), 999);
  EXPECT_TRUE(torch::equal(seen, torch::tensor(labels)));
  BitTrainer(learner, {.epochs = 40, .batch_size = 16, .learning_rate = 1e-2, .threads = 1}).fit(set).value();
  EXPECT_GT(evaluate(learner, set).value().at("accuracy"), std::max(before, 0.9));
}

struct Bigrams : torch::nn::Module {
  nn::BitEmbedding tokens = register_module("tokens", nn::BitEmbedding(256, 32));
  nn::BitLinear head = register_module("head", nn::BitLinear(32, 256));
  at::Tensor forward(const at::Tensor& x) { return head(tokens(x)); }
};

// A text in which each byte follows from the one before: perplexity goes from that of guessing to nearly 1.
TEST(Tasks, LanguageModelOnText) {
  torch::manual_seed(4);
  std::string text;
  for (int i = 0; i < 300; ++i) text += "ternary ";
  const auto set = data::TextDataset::create(text, 24).value();
  Bigrams net;
  ModuleLearner learner(net, std::make_shared<NextToken>());
  const double before = evaluate(learner, set).value().at("perplexity");
  BitTrainer(learner, {.epochs = 6, .batch_size = 8, .learning_rate = 3e-2, .threads = 1}).fit(set).value();
  const double after = evaluate(learner, set).value().at("perplexity");
  EXPECT_GT(before, 100);
  EXPECT_LT(after, 2) << "r alone is ambiguous";
}

}  // namespace
}  // namespace bitlab::train
