// What a config adds to training, against the formulas in double: smoothed labels, mixup, the moving average, a teacher, renewed statistics, half precision.
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_linear.h"
#include "bitlab/train/internal/layer_outputs.h"
#include "bitlab/train/internal/schedule.h"
#include "bitlab/train/test_support.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {
namespace {

using test::Rows, test::Small;

constexpr int64_t kRows = 16;
constexpr double kRate = 0.3, kMomentum = 0.9;

TrainingConfig recipe() {
  return {.epochs = 6,
          .batch_size = kRows,
          .optimizer = config::Optimizer::kSgd,
          .learning_rate = kRate,
          .momentum = kMomentum,
          .schedule = config::Schedule::kConstant,
          .warmup = 0,
          .seed = 5,
          .threads = 1};
}

// What the trainer leaves, by the names of parameters.
State trained_state(const TrainingConfig& config) {
  torch::manual_seed(6);
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  BitTrainer(learner, config).fit(std::make_shared<Rows>(kRows)).value();
  return learner.state();
}

// The batch of an epoch of one.
nn::NamedTensors batch_of_epoch(int64_t epoch) {
  return make_batch(Rows(kRows), data::order_of_epoch(kRows, epoch, {.shuffle = true, .seed = 5})).value();
}

// The same steps by LibTorch: loss(net, batch, step), and what comes after each.
State reference(const std::function<at::Tensor(Small&, const nn::NamedTensors&, int64_t)>& loss,
                const std::function<void(Small&)>& after = {}) {
  torch::manual_seed(6);
  Small net;
  torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(kRate).momentum(kMomentum));
  for (int64_t step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    loss(net, batch_of_epoch(step + 1), step).backward();
    optimizer.step();
    if (after) after(net);
  }
  State state;
  for (const auto& item : net.named_parameters()) state[item.key()] = item.value().detach();
  return state;
}

void expect_close(const State& ours, const State& theirs) {
  for (const auto& [name, tensor] : theirs) EXPECT_TRUE(torch::allclose(ours.at(name), tensor, 1e-6, 1e-8)) << name;
}

// -sum of target log p, averaged over the rows.
at::Tensor cross_entropy_with(const at::Tensor& logits, const at::Tensor& target) {
  return -(target * torch::log_softmax(logits, 1)).sum(1).mean();
}

TEST(Recipes, SmoothedLabels) {
  TrainingConfig config = recipe();
  config.label_smoothing = 0.2;
  const State ours = trained_state(config);
  expect_close(ours, reference([](Small& net, const nn::NamedTensors& batch, int64_t) {
                 const at::Tensor target = torch::one_hot(batch.at("label"), 4).to(at::kDouble) * 0.8 + 0.2 / 4;
                 return cross_entropy_with(net.forward(batch.at("x")), target);
               }));
  EXPECT_FALSE(torch::allclose(ours.at("fc2.weight"), trained_state(recipe()).at("fc2.weight"), 1e-3, 1e-4));
  // Of two heads, each by its weight; values have no labels.
  const auto task = std::make_shared<Classification>("a", "label");
  const MultiTask both({{"a", task, 2.0}, {"b", std::make_shared<NextToken>("b", "next"), 0.5}});
  const nn::NamedTensors outputs{{"a", torch::randn({3, 4}, at::kDouble)}, {"b", torch::randn({3, 2, 5}, at::kDouble)}};
  const nn::NamedTensors batch{{"label", torch::tensor({0, 3, 1})}, {"next", torch::tensor({{0, 4}, {2, 2}, {1, 3}})}};
  const auto smoothed = [](const at::Tensor& logits, const at::Tensor& labels) {
    const int64_t classes = logits.size(1);
    const at::Tensor sure = torch::one_hot(labels, classes).to(at::kDouble);
    return cross_entropy_with(logits, sure * 0.9 + 0.1 / static_cast<double>(classes));
  };
  const at::Tensor expected = 2 * smoothed(outputs.at("a"), batch.at("label")) +
                              0.5 * smoothed(outputs.at("b").flatten(0, 1), batch.at("next").flatten());
  EXPECT_TRUE(torch::allclose(both.smoothed_loss(outputs, batch, 0.1), expected, 1e-12, 1e-12));
  Small net;
  ModuleLearner values(net, std::make_shared<Regression>("output", "x"));
  EXPECT_EQ(BitTrainer(values, config).fit(std::make_shared<Rows>(kRows)).error().code, ErrorCode::kUnsupported);
}

TEST(Recipes, MixupOfInputsAndLabels) {
  TrainingConfig config = recipe();
  config.mixup = 0.4, config.label_smoothing = 0.1;
  expect_close(trained_state(config), reference([](Small& net, const nn::NamedTensors& batch, int64_t step) {
                 const Mixup::Draw draw = Mixup::draw(0.4, 5, step, kRows);
                 const at::Tensor x = batch.at("x").to(at::kDouble);
                 const at::Tensor y = torch::one_hot(batch.at("label"), 4).to(at::kDouble) * 0.9 + 0.1 / 4;
                 const auto mixed = [&](const at::Tensor& t) {
                   return t * draw.share + t.index_select(0, draw.order) * (1 - draw.share);
                 };
                 return cross_entropy_with(net.forward(mixed(x)), mixed(y));
               }));
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  BitTrainer trainer(learner, config);
  try {
    trainer.step({{"label", torch::tensor({1, 2})}}).value();
    FAIL();
  } catch (const Exception& error) {
    EXPECT_EQ(error.error().message, "[train] floating-point inputs for mixup, got none of {label}");
  }
}

// Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
TEST(Recipes, MixupDrawsFromBeta) {
  for (const double alpha : {0.2, 1.0, 3.0}) {
    double sum = 0, squares = 0;
    constexpr int64_t kDraws = 4000;
    for (int64_t step = 0; step < kDraws; ++step) {
      const double share = Mixup::draw(alpha, 1, step, 1).share;
      EXPECT_TRUE(share >= 0 && share <= 1);
      sum += share, squares += (share - 0.5) * (share - 0.5);
    }
    EXPECT_NEAR(sum / kDraws, 0.5, 0.03) << alpha;
    EXPECT_NEAR(squares / kDraws, 1 / (4 * (2 * alpha + 1)), 0.01) << alpha;
  }
  const Mixup::Draw draw = Mixup::draw(1, 2, 3, 50), same = Mixup::draw(1, 2, 3, 50);
  EXPECT_TRUE(torch::equal(std::get<0>(draw.order.sort()), torch::arange(50)));
  EXPECT_TRUE(torch::equal(draw.order, same.order) && draw.share == same.share);
  EXPECT_FALSE(torch::equal(draw.order, Mixup::draw(1, 2, 4, 50).order));
  EXPECT_FALSE(torch::equal(draw.order, Mixup::draw(1, 3, 3, 50).order));
}

TEST(Recipes, MovingAverageIsWhatIsKept) {
  TrainingConfig config = recipe();
  config.ema = 0.7;
  const auto plain = [](Small& net, const nn::NamedTensors& batch, int64_t) {
    return torch::cross_entropy_loss(net.forward(batch.at("x")), batch.at("label"));
  };
  State mean;
  reference(plain, [&](Small& net) {
    for (const auto& item : net.named_parameters()) {
      const at::Tensor p = item.value().detach().clone();
      at::Tensor& m = mean[item.key()];
      m = m.defined() ? 0.7 * m + 0.3 * p : p;
    }
  });
  expect_close(trained_state(config), mean);
}

// A tied parameter has several names; a step that was evaluated goes on from its own parameters.
TEST(Recipes, MovingAverageGivesParametersBack) {
  struct Tied : torch::nn::Module {
    at::Tensor a = register_parameter("a", torch::ones({3})), b = register_parameter("b", a);
  } net;
  ModuleLearner learner(net, nn::Forward(), std::make_shared<Classification>());
  MovingAverage average(0.5);
  ASSERT_TRUE(average.load({{"a", torch::full({3}, 7.0)}, {"b", torch::full({3}, 7.0)}}).ok());
  for (int i = 0; i < 2; ++i) {
    average.before_evaluation(learner);
    EXPECT_EQ(net.a.sum().item<double>(), 21);
    average.after_evaluation(learner);
    EXPECT_EQ(net.a.sum().item<double>(), 3);
  }
}

TEST(Recipes, LayersWaitBeforeTheyTurn) {
  const TrainingConfig both{.ternary_delay = 0.25, .ternary_warmup = 0.5}, at_once{.ternary_delay = 0.5};
  for (const auto& [step, share] :
       std::vector<std::pair<int64_t, double>>{{0, 0}, {9, 0}, {10, 0}, {20, 0.5}, {30, 1}, {39, 1}})
    EXPECT_DOUBLE_EQ(ternary_share(both, step, 40), share) << step;
  EXPECT_EQ(ternary_share(at_once, 19, 40), 0);
  EXPECT_EQ(ternary_share(at_once, 20, 40), 1);
  torch::manual_seed(1);
  nn::BitLinear layer(6, 4);
  ModuleLearner learner(*layer, std::make_shared<Classification>());
  std::vector<double> shares;
  TrainerOptions options;
  options.on_step = [&](const StepReport&) { shares.push_back(layer->quantizer.blend.item<double>()); };
  TrainingConfig config = recipe();
  config.epochs = 4, config.ternary_delay = 0.5;
  BitTrainer(learner, config, options).fit(std::make_shared<Rows>(kRows)).value();
  EXPECT_EQ(shares, (std::vector<double>{0, 0, 1, 1}));
  config.ternary_warmup = 0.6;
  EXPECT_EQ(BitTrainer(learner, config).fit(std::make_shared<Rows>(kRows)).error().message,
            "[train] ternary_delay and ternary_warmup of at most 1 together, got 0.5 and 0.6");
}

// Three layers, one of them in int8, in six steps of warm-up behind one of delay: each turns in two steps of its own.
TEST(Recipes, LayersTurnOneAfterAnother) {
  const std::vector<std::vector<double>> rises{
      {0, 0, 0.5, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0.5, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 0.5, 1}};
  for (const bool is_forward : {true, false}) {
    torch::manual_seed(1);
    torch::nn::Sequential net(nn::BitLinear(6, 9), nn::BitLinear(nn::BitLinearOptions(9, 5).quant(BitQuantConfig::none())),
                              nn::BitLinear(nn::BitLinearOptions(5, 7).quant(BitQuantConfig::int8())), nn::BitLinear(7, 4));
    ModuleLearner learner(*net, std::make_shared<Classification>());
    std::vector<std::vector<double>> shares(3);
    TrainerOptions options;
    options.on_step = [&](const StepReport&) {
      const auto buffers = net->named_buffers();
      size_t layer = 0;
      for (const char* name : {"0.blend", "2.blend", "3.blend"}) shares[layer++].push_back(buffers[name].item<double>());
    };
    TrainingConfig config = recipe();
    config.epochs = 8, config.ternary_delay = 0.125, config.ternary_warmup = 0.75;
    config.ternary_order = is_forward ? config::TernaryOrder::kFirstToLast : config::TernaryOrder::kLastToFirst;
    BitTrainer(learner, config, options).fit(std::make_shared<Rows>(kRows)).value();
    for (size_t layer = 0; layer < 3; ++layer)
      for (size_t step = 0; step < 8; ++step)
        EXPECT_NEAR(shares[layer][step], rises[is_forward ? layer : 2 - layer][step], 1e-12) << layer << " " << step;
    for (const char* name : {"0.blend", "2.blend", "3.blend"})
      EXPECT_EQ(net->named_buffers()[name].item<double>(), 1) << name;
    config.ternary_warmup = 0;
    EXPECT_EQ(BitTrainer(learner, config).fit(std::make_shared<Rows>(kRows)).error().message,
              "[train] ternary_warmup > 0 for layers that turn one after another, got 0");
  }
}

TEST(Recipes, DistillationOfLogits) {
  torch::manual_seed(8);
  Small teacher;
  TrainingConfig config = recipe();
  config.distillation = 0.6, config.temperature = 3;
  torch::manual_seed(6);
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  EXPECT_EQ(BitTrainer(learner, config).fit(std::make_shared<Rows>(kRows)).error().message,
            "[train] a teacher for distillation, got none");
  BitTrainer(learner, config, {.teacher = nn::forward_of(teacher)}).fit(std::make_shared<Rows>(kRows)).value();
  expect_close(learner.state(), reference([&](Small& student, const nn::NamedTensors& batch, int64_t) {
                 const at::Tensor z = student.forward(batch.at("x")), t = teacher.forward(batch.at("x")).detach();
                 const at::Tensor p = torch::softmax(t / 3, 1), q = torch::softmax(z / 3, 1);
                 const at::Tensor divergence = (p * (p / q).log()).sum(1).mean();
                 return 0.4 * torch::cross_entropy_loss(z, batch.at("label")) + 0.6 * 9 * divergence;
               }));
  for (const at::Tensor& p : teacher.parameters()) EXPECT_FALSE(p.grad().defined());
  torch::nn::Linear other(6, 3);
  const auto wrong = nn::forward_of([&](const at::Tensor& x) { return other(x); });
  EXPECT_EQ(BitTrainer(learner, config, {.teacher = wrong}).fit(std::make_shared<Rows>(kRows)).error().message,
            "[train] logits of the teacher as of the network, [16, 4], got [16, 3]");
  EXPECT_THROW(Regression().class_logits({{"output", torch::zeros({2, 4})}}, {}), Exception);
  // The items of text are the tokens that are asked for, of pictures of labels the pixels.
  const at::Tensor tokens = torch::randn({2, 3, 5}), pixels = torch::randn({2, 5, 3, 4});
  const at::Tensor next = torch::tensor({1, 2, -100, 3, -100, -100}, at::kLong).view({2, 3});
  EXPECT_TRUE(torch::equal(NextToken("l").class_logits({{"l", tokens}}, {{"next", next}}),
                           torch::stack({tokens[0][0], tokens[0][1], tokens[1][0]})));
  EXPECT_TRUE(
      torch::equal(Classification("l").class_logits({{"l", pixels}}, {}), pixels.permute({0, 2, 3, 1}).reshape({24, 5})));
}

// Each sample by its root mean square.
at::Tensor by_root_mean_square(const at::Tensor& f) { return f / (f * f + 1e-6).mean(1, true).sqrt(); }

// The names of a network that is a part of a teacher.
struct Holder : torch::nn::Module {
  std::shared_ptr<Small> body = register_module("body", std::make_shared<Small>());
  at::Tensor forward(const at::Tensor& x) { return body->forward(x); }
};

TEST(Recipes, DistillationOfFeatures) {
  torch::manual_seed(8);
  Small teacher;
  Holder holder;
  const auto features = [](Small& net, const at::Tensor& x) {
    const at::Tensor h = net.fc1(x.to(at::kDouble));
    return std::pair(by_root_mean_square(h), by_root_mean_square(net.fc2(at::tanh(h))));
  };
  TrainingConfig config = recipe();
  config.feature_distillation = 0.7, config.feature_layers = {{.path = "fc?"}};
  const auto trained = [&](auto& network) {
    torch::manual_seed(6);
    Small net;
    ModuleLearner learner(net, std::make_shared<Classification>());
    TrainerOptions options{.teacher = nn::forward_of(network), .teacher_parameters = parameters_of(network)};
    BitTrainer(learner, config, options).fit(std::make_shared<Rows>(kRows)).value();
    return learner.state();
  };
  const State both = trained(teacher);
  expect_close(both, reference([&](Small& student, const nn::NamedTensors& batch, int64_t) {
                 const auto [s1, s2] = features(student, batch.at("x"));
                 const auto [t1, t2] = features(teacher, batch.at("x"));
                 const at::Tensor distance = ((s1 - t1.detach()).square().mean() + (s2 - t2.detach()).square().mean()) / 2;
                 return torch::cross_entropy_loss(student.forward(batch.at("x")), batch.at("label")) + 0.7 * distance;
               }));
  EXPECT_FALSE(torch::allclose(both.at("fc1.weight"), trained_state(recipe()).at("fc1.weight"), 1e-3, 1e-4));
  for (const at::Tensor& p : teacher.parameters()) EXPECT_FALSE(p.grad().defined());
  // Of another name, and beside the logits.
  config.feature_layers = {{.path = "fc1", .teacher = "body.fc1"}}, config.distillation = 0.5;
  expect_close(trained(holder), reference([&](Small& student, const nn::NamedTensors& batch, int64_t) {
                 const at::Tensor z = student.forward(batch.at("x")), t = holder.forward(batch.at("x")).detach();
                 const at::Tensor p = torch::softmax(t, 1), q = torch::softmax(z, 1);
                 const at::Tensor s1 = features(student, batch.at("x")).first;
                 const at::Tensor t1 = features(*holder.body, batch.at("x")).first.detach();
                 return 0.5 * torch::cross_entropy_loss(z, batch.at("label")) + 0.5 * (p * (p / q).log()).sum(1).mean() +
                        0.7 * (s1 - t1).square().mean();
               }));
}

TEST(Recipes, DistillationOfFeaturesRefuses) {
  Small net, teacher;
  torch::nn::Linear other(6, 3);
  ModuleLearner learner(net, std::make_shared<Classification>());
  TrainingConfig config = recipe();
  config.feature_distillation = 1;
  const auto message = [&](TrainerOptions options) {
    return BitTrainer(learner, config, std::move(options)).fit(std::make_shared<Rows>(kRows)).error().message;
  };
  const TrainerOptions known{.teacher = nn::forward_of(teacher), .teacher_parameters = parameters_of(teacher)};
  EXPECT_EQ(message(known), "[train] feature_layers for feature_distillation, got none");
  config.feature_layers = {{.path = "fc1"}};
  EXPECT_EQ(message({}), "[train] a teacher for distillation, got none");
  EXPECT_EQ(message({.teacher = known.teacher}), "[train] a teacher's layer of {}, got 'fc1'");
  config.feature_layers = {{.path = "fc9"}};
  EXPECT_EQ(message(known), "[train] a path of layers with parameters of {fc1, fc2}, got 'fc9'");
  config.feature_layers = {{.path = "fc1", .teacher = "fc2"}};
  EXPECT_EQ(message(known), "[train] outputs as the teacher's, [16, 4], got [16, 9] (layer=fc1)");
  config.feature_layers = {{.path = "fc1"}};
  TrainerOptions silent{.teacher = nn::forward_of([&](const at::Tensor& x) { return other(x); })};
  silent.teacher_parameters = known.teacher_parameters;
  EXPECT_EQ(message(silent), "[train] a call of the layer in the forward pass, got none (layer=fc1)");
  config.feature_layers = {{.path = "/(/"}};
  EXPECT_EQ(BitTrainer(learner, config, known).fit(std::make_shared<Rows>(kRows)).error().code, ErrorCode::kInvalidArgument);
}

// Three tokens of two numbers each, attended to in double.
struct Attending : torch::nn::Module {
  torch::nn::Linear q{nullptr}, k{nullptr}, v{nullptr}, head{nullptr};
  explicit Attending(int64_t size, std::array<const char*, 3> names = {"q_proj", "k_proj", "v_proj"}) {
    q = register_module(names[0], torch::nn::Linear(2, size));
    k = register_module(names[1], torch::nn::Linear(2, size));
    v = register_module(names[2], torch::nn::Linear(2, size));
    head = register_module("head", torch::nn::Linear(size, 4));
    to(at::kDouble);
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor tokens = x.to(at::kDouble).view({-1, 3, 2});
    return head(at::scaled_dot_product_attention(q(tokens), k(tokens), v(tokens)).mean(1));
  }
};

TEST(Recipes, DistillationOfRelations) {
  torch::manual_seed(8);
  Attending teacher(10, {"query", "key", "value"}), other(7);
  TrainingConfig config = recipe();
  config.relation_distillation = 0.3, config.relation_heads = 2;
  torch::manual_seed(6);
  Attending net(6);
  ModuleLearner learner(net, std::make_shared<Classification>());
  const auto options = [](Attending& network) {
    return TrainerOptions{.teacher = nn::forward_of(network), .teacher_parameters = parameters_of(network)};
  };
  BitTrainer(learner, config, options(teacher)).fit(std::make_shared<Rows>(kRows)).value();

  const auto relations = [](torch::nn::Linear& layer, const at::Tensor& x, int64_t head) {
    const at::Tensor y = layer(x.to(at::kDouble).view({-1, 3, 2}));
    const int64_t depth = y.size(2) / 2;
    const at::Tensor part = y.narrow(2, head * depth, depth);
    return torch::softmax(torch::einsum("bid,bjd->bij", {part, part}) / std::sqrt(static_cast<double>(depth)), 2);
  };
  torch::manual_seed(6);
  Attending expected(6);
  torch::optim::SGD optimizer(expected.parameters(), torch::optim::SGDOptions(kRate).momentum(kMomentum));
  for (int64_t epoch = 1; epoch <= 6; ++epoch) {
    const nn::NamedTensors batch = batch_of_epoch(epoch);
    const at::Tensor x = batch.at("x");
    at::Tensor loss = torch::cross_entropy_loss(expected.forward(x), batch.at("label"));
    for (const auto& [own, theirs] :
         {std::pair(&expected.q, &teacher.q), std::pair(&expected.k, &teacher.k), std::pair(&expected.v, &teacher.v)})
      for (int64_t head = 0; head < 2; ++head) {
        const at::Tensor p = relations(*theirs, x, head).detach(), r = relations(*own, x, head);
        loss = loss + 0.3 * (p * (p / r).log()).sum(2).mean() / 2;
      }
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  State state;
  for (const auto& item : expected.named_parameters()) state[item.key()] = item.value().detach();
  expect_close(learner.state(), state);

  const auto message = [&](Attending& network) {
    return BitTrainer(learner, config, options(network)).fit(std::make_shared<Rows>(kRows)).error().message;
  };
  EXPECT_EQ(message(other), "[train] relation_heads that divide vectors of 7, got 2 (layer=q_proj)");
  config.relation_layer = "attn";
  EXPECT_EQ(message(teacher),
            "[train] an attention with projections q_proj, k_proj and v_proj, or query, key and value, among the layers of "
            "{q_proj, k_proj, v_proj, head}, got 'attn'");
}

struct Normed : torch::nn::Module {
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Dropout dropout{0.2};
  Normed() {
    fc1 = register_module("fc1", torch::nn::Linear(6, 9));
    norm = register_module("norm", torch::nn::BatchNorm1d(9));
    fc2 = register_module("fc2", torch::nn::Linear(9, 4));
    register_module("dropout", dropout);
  }
  at::Tensor forward(const at::Tensor& x) { return fc2(dropout(torch::relu(norm(fc1(x))))); }
};

// Five batches an epoch, seven that pass through: those of the first epoch, and two of the second.
TEST(Recipes, StatisticsOfTheParametersThatAreEvaluated) {
  TrainingConfig config = recipe();
  config.batch_size = 4, config.learning_rate = 0.02;
  std::vector<State> ends;
  for (const int64_t batches : {0, 7}) {
    torch::manual_seed(6);
    Normed net;
    ModuleLearner learner(net, std::make_shared<Classification>());
    config.statistics_batches = batches;
    BitTrainer(learner, config).fit(std::make_shared<Rows>(20)).value();
    ends.push_back(learner.state());
  }
  Normed net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  ASSERT_TRUE(learner.load(ends[0]).ok());
  net.train();
  const torch::NoGradGuard no_grad;
  for (int64_t batch = 0; batch < 7; ++batch) {
    const auto order = data::order_of_epoch(20, 1 + batch / 5, {.shuffle = true, .seed = 5});
    const auto rows = std::span(order).subspan(static_cast<size_t>(batch % 5 * 4), 4);
    net.forward(make_batch(Rows(20), rows).value().at("x"));
  }
  for (const auto& [name, tensor] : learner.state())
    EXPECT_TRUE(torch::allclose(ends[1].at(name), tensor, 1e-6, 1e-7)) << name;
  EXPECT_FALSE(torch::allclose(ends[1].at("norm.running_mean"), ends[0].at("norm.running_mean"), 1e-3, 1e-4));
  for (const char* name : {"fc1.weight", "fc2.bias", "norm.weight"})
    EXPECT_TRUE(torch::equal(ends[0].at(name), ends[1].at(name))) << "training is as without: " << name;
}

struct Layers : torch::nn::Module {
  nn::BitLinear fc1{nullptr}, fc2{nullptr}, kept{nullptr};
  Layers() {
    fc1 = register_module("fc1", nn::BitLinear(nn::BitLinearOptions(6, 9).bias(false)));
    kept = register_module("kept", nn::BitLinear(nn::BitLinearOptions(9, 9).quant(BitQuantConfig::int8())));
    fc2 = register_module("fc2", nn::BitLinear(9, 4));
  }
  at::Tensor forward(const at::Tensor& x) { return fc2(torch::relu(kept(fc1(x)))); }
};

// With gradients, and whatever the layers are made of: a product in one operator, a product of a transposed view, an addition behind it.
TEST(Recipes, OutputsOfLayersAreSeen) {
  torch::manual_seed(6);
  struct ByHand : torch::nn::Module {
    Layers layers;
    at::Tensor weight = register_parameter("weight", torch::randn({3, 4})),
               bias = register_parameter("bias", torch::randn({3}));
    ByHand() {
      register_module("layers", std::shared_ptr<Layers>(&layers, [](Layers*) {}));
    }
  } net;
  LayerOutputs seen(parameters_of(net), {"layers.fc1", "layers.fc2", "(model)"});
  const at::Tensor x = torch::randn({5, 6});
  for (int pass = 0; pass < 2; ++pass) {
    seen.clear();
    at::Tensor y, z;
    {
      const ops::CallObserver observer(seen);
      y = net.layers.forward(x);
      z = torch::relu(y.mm(net.weight.t()) + net.bias);
    }
    EXPECT_TRUE(torch::equal(seen.of("layers.fc2"), y));
    EXPECT_TRUE(torch::equal(seen.of("layers.fc1"), net.layers.fc1(x)));
    EXPECT_TRUE(torch::equal(torch::relu(seen.of("(model)")), z));
    const at::Tensor gradient =
        torch::autograd::grad({seen.of("layers.fc1").square().sum()}, {net.layers.fc1->weight}).at(0);
    const at::Tensor expected = torch::autograd::grad({net.layers.fc1(x).square().sum()}, {net.layers.fc1->weight}).at(0);
    EXPECT_TRUE(torch::equal(gradient, expected));
    EXPECT_THROW(seen.of("layers.kept"), Exception) << "nobody asked for it";
  }
}

// By absmean's formula: w / mean|w|, rounded and clipped.
TEST(Recipes, StatisticsOfCodes) {
  torch::manual_seed(6);
  Layers net;
  {
    const torch::NoGradGuard no_grad;
    net.fc1->weight[2].zero_(), net.fc1->weight[5].mul_(1e-3);
  }
  ModuleLearner learner(net, std::make_shared<Classification>());
  std::vector<at::Tensor> codes;
  TrainerOptions options;
  options.on_evaluation = [&](const EvaluationReport&) {
    const at::Tensor w = net.fc1->weight.detach().clone();
    codes.push_back((w / w.abs().mean()).round().clamp(-1, 1));
  };
  TrainingConfig config = recipe();
  config.epochs = 3;
  const auto rows = std::make_shared<Rows>(kRows);
  const auto report = BitTrainer(learner, config, options).fit(rows, rows).value();
  for (size_t i = 0; i < 3; ++i) {
    const auto& weights = report.evaluations[i].weights;
    ASSERT_EQ(weights.size(), 2U);
    EXPECT_EQ(weights[0].name, "fc1.weight");
    EXPECT_EQ(weights[1].name, "fc2.weight");
    const at::Tensor last = codes[i == 0 ? 0 : i - 1];
    EXPECT_DOUBLE_EQ(weights[0].flips, (codes[i] != last).to(at::kDouble).mean().item<double>());
    EXPECT_DOUBLE_EQ(weights[0].zeros, (codes[i] == 0).to(at::kDouble).mean().item<double>());
    EXPECT_DOUBLE_EQ(weights[0].dead, (codes[i] == 0).all(1).to(at::kDouble).mean().item<double>());
  }
  EXPECT_GT(report.evaluations[0].weights[0].dead, 0.2) << "rows 2 and 5 of nine";
  EXPECT_GT(report.evaluations[2].weights[1].flips, 0);
}

// One weight at a time, as the algorithm of the paper goes. Sees the latent weights before they are frozen, and in the next step after.
struct Nagel : StepHook {
  explicit Nagel(at::Tensor w) : weight(std::move(w)) {}
  at::Tensor weight, expected;
  std::vector<double> code, direction, frequency, mean, held;
  std::vector<bool> frozen;
  int64_t steps = 0, disagreements = 0;

  void before_forward(StepContext&) override {
    if (expected.defined() && !torch::allclose(weight, expected, 1e-6, 0)) ++disagreements;
  }
  void after_update(StepContext&) override {
    const at::Tensor w = weight.detach().clone().flatten();
    const auto scale = w.abs().mean().item<double>();
    const auto n = static_cast<size_t>(w.numel());
    if (steps++ == 0)
      code.resize(n), direction.resize(n), frequency.resize(n), mean.resize(n), held.resize(n), frozen.resize(n);
    for (size_t i = 0; i < n; ++i) {
      const auto place = static_cast<int64_t>(i);
      const double now = std::clamp(std::nearbyint(w[place].item<double>() / scale), -1.0, 1.0);
      if (steps == 1) {
        code[i] = mean[i] = now;
        continue;
      }
      const double turn = now > code[i] ? 1 : now < code[i] ? -1 : 0;
      frequency[i] = 0.1 * (turn != 0 && turn == -direction[i] ? 1 : 0) + 0.9 * frequency[i];
      mean[i] = 0.1 * now + 0.9 * mean[i];
      if (turn != 0) direction[i] = turn;
      if (frequency[i] > 0.15 && !frozen[i]) held[i] = std::nearbyint(mean[i]), frozen[i] = true;
      code[i] = frozen[i] ? held[i] : now;
      if (frozen[i]) w[place] = held[i] * scale;
    }
    expected = w.view(weight.sizes());
  }
};

TEST(Recipes, OscillatingWeightsAreFrozen) {
  torch::manual_seed(6);
  Layers net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  TrainingConfig config = recipe();
  config.epochs = 30, config.batch_size = 4, config.learning_rate = 0.1, config.clip_norm = 0.5;
  config.freeze_oscillation = 0.15, config.oscillation_momentum = 0.1;
  const auto nagel = std::make_shared<Nagel>(net.fc1->weight);
  TrainerOptions options;
  options.hooks = {nagel};
  BitTrainer(learner, config, options).fit(std::make_shared<Rows>(20)).value();
  EXPECT_EQ(nagel->steps, 150);
  EXPECT_EQ(nagel->disagreements, 0);
  EXPECT_TRUE(torch::allclose(net.fc1->weight, nagel->expected, 1e-6, 0));
  const auto frozen = std::count(nagel->frozen.begin(), nagel->frozen.end(), true);
  EXPECT_GT(frozen, 0);
  EXPECT_LT(frozen, 54);
}

struct Typed : torch::nn::Module {
  nn::BitLinear fc1{nullptr};
  torch::nn::Linear fc2{nullptr};
  std::vector<at::ScalarType> types;
  Typed() {
    fc1 = register_module("fc1", nn::BitLinear(6, 24));
    fc2 = register_module("fc2", torch::nn::Linear(24, 4));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = fc2(torch::relu(fc1(x)));
    types.push_back(y.scalar_type());
    return y;
  }
};

// Of steps whose gradients are not finite nothing is left but a smaller scale; every second one in a row that is taken makes it larger.
TEST(Recipes, ScaledLossSkipsSteps) {
  struct Overflow : StepHook {
    void before_backward(StepContext& step) override {
      if (step.step == 1 || step.step == 4 || step.step == 5)
        step.objective = step.objective * std::numeric_limits<double>::infinity();
    }
  };
  TrainingConfig config = recipe();
  config.epochs = 10, config.clip_norm = 0.1, config.ema = 0.5;
  torch::manual_seed(6);
  Small net;
  ModuleLearner learner(net, std::make_shared<Classification>());
  TrainerOptions options;
  const auto scaling = std::make_shared<LossScaling>(LossScaling::Options{.scale = 1024, .interval = 2});
  options.hooks = {std::make_shared<Overflow>(), scaling};
  std::vector<double> scales;
  std::vector<bool> skipped;
  options.on_step = [&](const StepReport& step) { scales.push_back(step.loss_scale), skipped.push_back(step.skipped); };
  BitTrainer(learner, config, options).fit(std::make_shared<Rows>(kRows)).value();
  EXPECT_EQ(scales, (std::vector<double>{1024, 512, 512, 1024, 512, 256, 256, 512, 512, 1024}));
  EXPECT_EQ(skipped, (std::vector<bool>{false, true, false, false, true, true, false, false, false, false}));

  torch::manual_seed(6);
  Small expected;
  State mean;
  torch::optim::SGD optimizer(expected.parameters(), torch::optim::SGDOptions(kRate).momentum(kMomentum));
  for (int64_t step = 0; step < 10; ++step) {
    if (skipped[static_cast<size_t>(step)]) continue;
    const nn::NamedTensors batch = batch_of_epoch(step + 1);
    optimizer.zero_grad();
    torch::cross_entropy_loss(expected.forward(batch.at("x")), batch.at("label")).backward();
    torch::nn::utils::clip_grad_norm_(expected.parameters(), 0.1);
    optimizer.step();
    for (const auto& item : expected.named_parameters()) {
      at::Tensor& m = mean[item.key()];
      m = m.defined() ? 0.5 * m + 0.5 * item.value().detach() : item.value().detach().clone();
    }
  }
  for (const auto& [name, tensor] : mean) EXPECT_TRUE(torch::allclose(learner.state().at(name), tensor, 1e-4, 1e-6)) << name;

  LossScaling other;
  ASSERT_TRUE(other.load(scaling->state()).ok());
  EXPECT_EQ(other.state().at("scale").item<double>(), 1024);
  EXPECT_EQ(other.load({}).error().code, ErrorCode::kCorrupt);
  // Gradients that no scale makes finite end training, instead of steps that change nothing for ever.
  struct Broken : StepHook {
    void before_backward(StepContext& step) override { step.objective = step.objective * std::nan(""); }
  };
  options = {};
  options.hooks = {std::make_shared<Broken>(), std::make_shared<LossScaling>()};
  config.epochs = 100;
  const Error error = BitTrainer(learner, config, options).fit(std::make_shared<Rows>(kRows)).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFinite);
  EXPECT_EQ(error.message, "[train] finite gradients at some scale of the loss, got none down to 2.9802322387695312e-08");
  config.ternary_gradients = config::Precision::kFloat16;
  EXPECT_EQ(BitTrainer(learner, config).fit(std::make_shared<Rows>(kRows)).error().message,
            "[train] ternary_gradients of float32 or bfloat16, as sums of float16 overflow, got float16");
}

// Batches that add up to one step have one scale, as one large batch has.
TEST(Recipes, ScaledLossOfAccumulatedBatches) {
  std::vector<State> ends;
  for (const int64_t parts : {1, 2}) {
    torch::manual_seed(6);
    Small net;
    ModuleLearner learner(net, std::make_shared<Classification>());
    TrainingConfig config = recipe();
    config.precision = config::Precision::kFloat16, config.batch_size = 8 / parts, config.accumulate = parts;
    std::vector<double> scales;
    TrainerOptions options;
    options.on_step = [&](const StepReport& step) { scales.push_back(step.loss_scale); };
    BitTrainer(learner, config, options).fit(std::make_shared<Rows>(29)).value();
    for (const double scale : scales) EXPECT_EQ(scale, 65536);  // the network is one in double, which autocast leaves alone
    ends.push_back(learner.state());
  }
  expect_close(ends[0], ends[1]);
}

TEST(Recipes, HalfPrecisionInTraining) {
  std::vector<double> losses;
  using config::Precision;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16, Precision::kFloat16}) {
    torch::manual_seed(2);
    Typed net;
    ModuleLearner learner(net, std::make_shared<Classification>());
    TrainingConfig config = recipe();
    config.precision = precision, config.batch_size = 8, config.learning_rate = 0.05;
    const auto rows = std::make_shared<Rows>(48);
    const auto report = BitTrainer(learner, config).fit(rows, rows).value();
    losses.push_back(report.epochs.back().loss);
    EXPECT_LT(losses.back(), report.epochs.front().loss);
    const std::map<Precision, at::ScalarType> types{
        {Precision::kFloat32, at::kFloat}, {Precision::kBFloat16, at::kBFloat16}, {Precision::kFloat16, at::kHalf}};
    EXPECT_EQ(net.types.front(), types.at(precision)) << "in training";
    EXPECT_EQ(net.types.back(), at::kFloat) << "in evaluation, as it is deployed";
    for (const auto& p : net.parameters()) EXPECT_EQ(p.scalar_type(), at::kFloat);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU)) << "as it was";
  }
  EXPECT_NE(losses[0], losses[1]);
  EXPECT_NE(losses[0], losses[2]);
  EXPECT_NEAR(losses[0], losses[1], 0.02 * losses[0]);
  EXPECT_NEAR(losses[0], losses[2], 0.02 * losses[0]);
}

}  // namespace
}  // namespace bitlab::train
