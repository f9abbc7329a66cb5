// Networks of plain torch::nn, without a change of their source: converted, trained for some steps, deployed, run by the runtime.
#include <algorithm>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/convert/bit_model.h"
#include "bitlab/convert/sensitivity.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/internal/tensor_view.h"
#include "bitlab/deploy/post_training.h"
#include "bitlab/nn/bit_batch_norm.h"

namespace bitlab {
namespace {

namespace tnn = torch::nn;

// --- ResNet-18 (He et al. 2015, arXiv:1512.03385) for small images

struct BasicBlockImpl : tnn::Module {
  tnn::Conv2d conv1{nullptr}, conv2{nullptr};
  tnn::BatchNorm2d bn1{nullptr}, bn2{nullptr};
  tnn::Sequential shortcut;
  BasicBlockImpl(int64_t in, int64_t out, int64_t stride) {
    conv1 = register_module("conv1", tnn::Conv2d(tnn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false)));
    bn1 = register_module("bn1", tnn::BatchNorm2d(out));
    conv2 = register_module("conv2", tnn::Conv2d(tnn::Conv2dOptions(out, out, 3).padding(1).bias(false)));
    bn2 = register_module("bn2", tnn::BatchNorm2d(out));
    if (in != out || stride != 1) {
      shortcut->push_back(tnn::Conv2d(tnn::Conv2dOptions(in, out, 1).stride(stride).bias(false)));
      shortcut->push_back(tnn::BatchNorm2d(out));
    }
    register_module("shortcut", shortcut);
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor h = bn1(conv1(x));
    at::Tensor y = bn2(conv2(torch::relu_(h)));
    y += shortcut->is_empty() ? x : shortcut->forward(x);
    return torch::relu_(y);
  }
};
TORCH_MODULE(BasicBlock);

struct ResNet18 : tnn::Module {
  tnn::Conv2d stem{nullptr};
  tnn::BatchNorm2d bn{nullptr};
  tnn::Sequential layers;
  tnn::Linear head{nullptr};
  ResNet18() {
    stem = register_module("stem", tnn::Conv2d(tnn::Conv2dOptions(3, 64, 3).padding(1).bias(false)));
    bn = register_module("bn", tnn::BatchNorm2d(64));
    int64_t channels = 64;
    for (int64_t width : {64, 128, 256, 512})
      for (int64_t block : {0, 1}) {
        layers->push_back(BasicBlock(channels, width, width != 64 && block == 0 ? 2 : 1));
        channels = width;
      }
    register_module("layers", layers);
    head = register_module("head", tnn::Linear(512, 10));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = layers->forward(torch::relu(bn(stem(x))));
    return head(torch::adaptive_avg_pool2d(y, {1, 1}).flatten(1));
  }
};

// --- A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) on LibTorch's attention

struct EncoderBlockImpl : tnn::Module {
  tnn::LayerNorm norm1{nullptr}, norm2{nullptr};
  tnn::MultiheadAttention attention{nullptr};
  tnn::Sequential mlp;
  explicit EncoderBlockImpl(int64_t dim) {
    norm1 = register_module("norm1", tnn::LayerNorm(tnn::LayerNormOptions({dim})));
    norm2 = register_module("norm2", tnn::LayerNorm(tnn::LayerNormOptions({dim})));
    attention = register_module("attention", tnn::MultiheadAttention(dim, 4));
    mlp = register_module("mlp", tnn::Sequential(tnn::Linear(dim, 4 * dim), tnn::GELU(), tnn::Linear(4 * dim, dim)));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor n = norm1(x).transpose(0, 1);
    const at::Tensor h = x + std::get<0>(attention(n, n, n)).transpose(0, 1);
    return h + mlp->forward(norm2(h));
  }
};
TORCH_MODULE(EncoderBlock);

struct Vit : tnn::Module {
  tnn::Conv2d patches{nullptr};
  at::Tensor cls, positions;
  tnn::ModuleList blocks;
  tnn::LayerNorm norm{nullptr};
  tnn::Linear head{nullptr};
  Vit() {
    constexpr int64_t kDim = 64;
    patches = register_module("patches", tnn::Conv2d(tnn::Conv2dOptions(3, kDim, 4).stride(4)));
    cls = register_parameter("cls", 0.02 * torch::randn({1, 1, kDim}));
    positions = register_parameter("positions", 0.02 * torch::randn({1, 17, kDim}));
    for (int i = 0; i < 3; ++i) blocks->push_back(EncoderBlock(kDim));
    register_module("blocks", blocks);
    norm = register_module("norm", tnn::LayerNorm(tnn::LayerNormOptions({kDim})));
    head = register_module("head", tnn::Linear(kDim, 10));
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor h = patches(x).flatten(2).transpose(1, 2);
    h = torch::cat({cls.expand({x.size(0), -1, -1}), h}, 1) + positions;
    for (const auto& block : *blocks) h = block->as<EncoderBlock>()->forward(h);
    return head(norm(h).select(1, 0));
  }
};

// --- A decoder as GPT-2's (Radford et al. 2019), attention by hand

struct DecoderBlockImpl : tnn::Module {
  tnn::LayerNorm norm1{nullptr}, norm2{nullptr};
  tnn::Linear qkv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
  at::Tensor mask;
  DecoderBlockImpl(int64_t dim, int64_t length) {
    norm1 = register_module("norm1", tnn::LayerNorm(tnn::LayerNormOptions({dim})));
    norm2 = register_module("norm2", tnn::LayerNorm(tnn::LayerNormOptions({dim})));
    qkv = register_module("qkv", tnn::Linear(dim, 3 * dim));
    out = register_module("out", tnn::Linear(dim, dim));
    up = register_module("up", tnn::Linear(dim, 4 * dim));
    down = register_module("down", tnn::Linear(4 * dim, dim));
    mask = register_buffer("mask", torch::ones({length, length}, at::kBool).triu(1));
  }
  at::Tensor forward(const at::Tensor& x) {
    constexpr int64_t kHeads = 4;
    const int64_t batch = x.size(0), length = x.size(1), dim = x.size(2);
    const auto parts = qkv(norm1(x)).split(dim, 2);
    const auto heads = [&](const at::Tensor& t) { return t.view({batch, length, kHeads, dim / kHeads}).transpose(1, 2); };
    const at::Tensor scores = heads(parts[0]).matmul(heads(parts[1]).transpose(-2, -1)) / std::sqrt(double(dim / kHeads));
    const at::Tensor weights = torch::softmax(scores.masked_fill(mask, -INFINITY), -1);
    const at::Tensor h = x + out(weights.matmul(heads(parts[2])).transpose(1, 2).contiguous().view({batch, length, dim}));
    return h + down(torch::gelu(up(norm2(h)), "tanh"));
  }
};
TORCH_MODULE(DecoderBlock);

struct Gpt : tnn::Module {
  static constexpr int64_t kTokens = 65, kLength = 16, kDim = 64;
  tnn::Embedding tokens{nullptr}, positions{nullptr};
  tnn::Sequential blocks;
  tnn::LayerNorm norm{nullptr};
  tnn::Linear head{nullptr};
  Gpt() {
    tokens = register_module("tokens", tnn::Embedding(kTokens, kDim));
    positions = register_module("positions", tnn::Embedding(kLength, kDim));
    for (int i = 0; i < 2; ++i) blocks->push_back(DecoderBlock(kDim, kLength));
    register_module("blocks", blocks);
    norm = register_module("norm", tnn::LayerNorm(tnn::LayerNormOptions({kDim})));
    head = register_module("head", tnn::Linear(tnn::LinearOptions(kDim, kTokens).bias(false)));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = tokens(x) + positions(torch::arange(x.size(1)));
    return head(norm(blocks->forward(h)));
  }
};

// --- Weight standardization (Qiao et al. 2019, arXiv:1903.10520), whose kernels no convolution reads as they are

struct Standardized : tnn::Module {
  tnn::Conv2d conv{nullptr}, mix{nullptr};
  tnn::GroupNorm norm{nullptr};
  tnn::Linear head{nullptr};
  Standardized() {
    conv = register_module("conv", tnn::Conv2d(tnn::Conv2dOptions(3, 32, 3).padding(1).bias(false)));
    norm = register_module("norm", tnn::GroupNorm(4, 32));
    mix = register_module("mix", tnn::Conv2d(tnn::Conv2dOptions(32, 32, 2).padding(torch::kSame)));
    head = register_module("head", tnn::Linear(32 * 4 * 4, 10));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor& w = conv->weight;
    const at::Tensor kernel = (w - w.mean({1, 2, 3}, true)) / (w.std({1, 2, 3}, true, true) + 1e-5);
    const at::Tensor y = torch::relu(norm(torch::conv2d(x, kernel, {}, 1, 1)));
    return head(torch::adaptive_avg_pool2d(torch::relu(mix(y)), {4, 4}).flatten(1));
  }
};

// Converts, trains for ten steps on one batch, deploys, and runs the file on other batch sizes.
template <class Net>
void follow_the_whole_way(const at::Tensor& input, const at::Tensor& target, double least_share,
                          const MixedPrecisionConfig& config = {}) {
  torch::manual_seed(5);
  const auto model = convert::BitModel::wrap(std::make_shared<Net>(), config);
  const convert::ConversionReport& report = model->report();
  EXPECT_GT(static_cast<double>(report.covered()), least_share * static_cast<double>(report.parameters()))
      << report.to_text();
  EXPECT_TRUE(report.unused_rules.empty());

  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(2e-3));
  std::vector<double> losses;
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const at::Tensor logits = model->forward(input);
    const at::Tensor loss = torch::cross_entropy_loss(logits.reshape({-1, logits.size(-1)}), target.reshape({-1}));
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  EXPECT_LT(losses.back(), 0.9 * losses.front());

  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_convert_{}.bit", getpid());
  const auto deployment = deploy::save(*model, input, path);
  ASSERT_TRUE(deployment.ok()) << deployment.error().message;
  EXPECT_FALSE(deployment->parity.exact) << "norms and softmax are float";
  const auto session = runtime::Session::create(runtime::Model::load(path).value()).value();
  std::filesystem::remove(path);
  const at::NoGradGuard no_grad;
  for (int64_t batch : {int64_t{1}, input.size(0)}) {
    const at::Tensor part = input.narrow(0, 0, batch).contiguous(), expected = model->forward(part).contiguous();
    const at::Tensor found = deploy::run(*session, part).value()[0].second;
    EXPECT_LT((found - expected).abs().max().item<double>(),
              deploy::kBoundBehindQuantizers * expected.abs().max().item<double>())
        << batch;
  }
}

TEST(ConvertTrainDeploy, ResNet18) {
  torch::manual_seed(1);
  follow_the_whole_way<ResNet18>(torch::randn({4, 3, 16, 16}), torch::randint(10, {4}), 0.99);
}

// Trains a model that gives scores for each position, and expects that it learns.
void expect_learns(convert::BitModel& model, const at::Tensor& input, const at::Tensor& target, int steps, double rate) {
  torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(rate));
  std::vector<double> losses;
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = torch::cross_entropy_loss(model.forward(input).flatten(0, 1), target);
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  EXPECT_LT(losses.back(), 0.9 * losses.front());
}

// Deploys an exact model, and expects the bits of eval from the runtime for one sample and for all. Returns what was loaded.
std::shared_ptr<const runtime::Model> expect_same_bits_deployed(convert::BitModel& model, const at::Tensor& input) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_exact_{}.bit", getpid());
  const auto deployment = deploy::save(model, input, path);
  EXPECT_TRUE(deployment.ok() && deployment->parity.exact) << (deployment.ok() ? "" : deployment.error().message);
  const auto loaded = runtime::Model::load(path).value();
  std::filesystem::remove(path);
  const auto session = runtime::Session::create(loaded).value();
  const at::NoGradGuard no_grad;
  for (const int64_t batch : {int64_t{1}, input.size(0)}) {
    const at::Tensor part = input.narrow(0, 0, batch).contiguous();
    EXPECT_TRUE(torch::equal(deploy::run(*session, part).value()[0].second, model.forward(part)));
  }
  return loaded;
}

int64_t count_of(const program::Program& program, program::Storage storage) {
  return std::count_if(program.values.begin(), program.values.end(), [&](const auto& v) { return v.storage == storage; });
}

// An embedding and first and last layers in int8, what lies between ternary: every bit of eval is deployed.
struct Tagger : tnn::Module {
  tnn::Embedding words{nullptr};
  tnn::Conv1d first{nullptr}, second{nullptr};
  tnn::Linear head{nullptr};
  Tagger() {
    words = register_module("words", tnn::Embedding(50, 24));
    first = register_module("first", tnn::Conv1d(tnn::Conv1dOptions(24, 32, 3).padding(1)));
    second = register_module("second", tnn::Conv1d(tnn::Conv1dOptions(32, 32, 3).padding(1)));
    head = register_module("head", tnn::Linear(32, 7));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = torch::relu(first(words(x).transpose(1, 2)));
    return head(torch::relu(second(h)).transpose(1, 2));
  }
};

TEST(ConvertTrainDeploy, LayersInInt8) {
  torch::manual_seed(5);
  MixedPrecisionConfig config;
  config.quant = BitQuantConfig::for_server();
  config.quant.granularity = ternary::Granularity::kChannel;
  for (const char* path : {"words", "first", "head"}) {
    config.rules.emplace_back();
    config.rules.back().path = path;
    config.rules.back().quant = QuantRule::in_int8();
  }
  const auto model = convert::BitModel::wrap(std::make_shared<Tagger>(), config);
  EXPECT_EQ(model->report().layers[0].quant, "int8/channel/int8");
  const at::Tensor input = torch::randint(50, {6, 9}), target = torch::randint(7, {6 * 9});
  expect_learns(*model, input, target, 10, 5e-3);
  EXPECT_EQ(count_of(expect_same_bits_deployed(*model, input)->program(), program::Storage::kInt8), 3);
}

// Weights from elsewhere, converted and deployed at once: the first forward pass of all is the one that is captured, and audited.
TEST(ConvertTrainDeploy, DeploysWithoutAForwardPassBefore) {
  torch::manual_seed(6);
  const auto net = std::make_shared<Vit>();
  const auto model = convert::BitModel::wrap(net, {});
  model->eval();
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_at_once_{}.bit", getpid());
  const auto deployment = deploy::save(*model, torch::randn({2, 3, 16, 16}), path);
  ASSERT_TRUE(deployment.ok()) << deployment.error().message;
  std::filesystem::remove(path);

  // What the audit refuses is what the error says.
  struct Halved : tnn::Module {
    tnn::Linear fc = register_module("fc", tnn::Linear(4, 4));
    at::Tensor forward(const at::Tensor& x) { return torch::nn::functional::linear(x, fc->weight * 0.5); }
  };
  const auto halved = convert::BitModel::wrap(std::make_shared<Halved>(), {});
  const auto refused = deploy::save(*halved, torch::randn({2, 4}), path);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("'fc.weight' is read by aten::mul"), std::string::npos) << refused.error().message;
}

// A language model whose output projection is its embedding: trained, deployed with one copy of the codes, the bits of eval.
struct TiedModel : tnn::Module {
  tnn::Embedding words{nullptr};
  tnn::Linear hidden{nullptr};
  TiedModel() {
    words = register_module("words", tnn::Embedding(70, 48));
    hidden = register_module("hidden", tnn::Linear(48, 48));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = torch::relu(hidden(words(x)));
    return torch::nn::functional::linear(h, words->weight);
  }
};

TEST(ConvertTrainDeploy, TiedEmbeddings) {
  torch::manual_seed(8);
  MixedPrecisionConfig config;
  config.quant.granularity = ternary::Granularity::kChannel;
  const auto model = convert::BitModel::wrap(std::make_shared<TiedModel>(), config);
  const at::Tensor text = torch::randint(70, {5, 10});
  const at::Tensor input = text.narrow(1, 0, 9).contiguous(), target = text.narrow(1, 1, 9).reshape({-1});
  expect_learns(*model, input, target, 20, 1e-2);
  const auto loaded = expect_same_bits_deployed(*model, input);
  EXPECT_EQ(count_of(loaded->program(), program::Storage::kTernary), 2) << "the table once, and the hidden layer";
}

TEST(ConvertTrainDeploy, MasterWeights) {
  torch::manual_seed(4);
  MixedPrecisionConfig config;
  config.rules.emplace_back();
  config.rules[0].path = "conv";
  config.rules[0].master = true;
  follow_the_whole_way<Standardized>(torch::randn({4, 3, 16, 16}), torch::randint(10, {4}), 0.9, config);
}

TEST(ConvertTrainDeploy, VisionTransformer) {
  torch::manual_seed(2);
  follow_the_whole_way<Vit>(torch::randn({8, 3, 16, 16}), torch::randint(10, {8}), 0.95);
}

TEST(ConvertTrainDeploy, Decoder) {
  torch::manual_seed(3);
  const at::Tensor text = torch::randint(Gpt::kTokens, {8, Gpt::kLength + 1});
  follow_the_whole_way<Gpt>(text.narrow(1, 0, Gpt::kLength).contiguous(), text.narrow(1, 1, Gpt::kLength).contiguous(),
                            0.95);
}

// The same layers as typed members and in a container: post-training quantization and analysis make the same of both.
struct TypedNet : tnn::Module {
  tnn::Conv2d conv1{nullptr}, conv2{nullptr};
  tnn::BatchNorm2d norm{nullptr};
  tnn::Linear fc{nullptr};
  TypedNet() {
    conv1 = register_module("conv1", tnn::Conv2d(tnn::Conv2dOptions(3, 8, 3).padding(1)));
    norm = register_module("norm", tnn::BatchNorm2d(8));
    conv2 = register_module("conv2", tnn::Conv2d(tnn::Conv2dOptions(8, 6, 3).stride(2).bias(false)));
    fc = register_module("fc", tnn::Linear(6 * 3 * 4, 5));
  }
  at::Tensor forward(const at::Tensor& x) {
    return fc(torch::relu(torch::conv2d(torch::relu(norm(conv1(x))), conv2->weight, {}, 2)).flatten(1));
  }
};

TEST(PostTraining, TakesInterceptedLayersLikeReplacedOnes) {
  torch::manual_seed(11);
  const auto typed = std::make_shared<TypedNet>();
  tnn::Sequential plain(tnn::Conv2d(tnn::Conv2dOptions(3, 8, 3).padding(1)), nn::BitBatchNorm2d(8), tnn::ReLU(),
                        tnn::Conv2d(tnn::Conv2dOptions(8, 6, 3).stride(2).bias(false)), tnn::ReLU(), tnn::Flatten(),
                        tnn::Linear(6 * 3 * 4, 5));
  const auto sources = typed->parameters(), targets = plain->parameters();
  const at::NoGradGuard no_grad;
  typed->norm->weight.normal_(0.2, 1);  // both signs
  typed->norm->bias.normal_();
  for (size_t i = 0; i < sources.size(); ++i) targets[i].copy_(sources[i]);
  MixedPrecisionConfig config;
  config.quant.granularity = ternary::Granularity::kChannel;
  config.quant.activation = ternary::ActKind::kInt8Static;
  const auto intercepted = convert::BitModel::wrap(typed, config);
  ASSERT_TRUE(convert::BitConverter::convert(*plain, config).ok());

  const std::vector<nn::NamedTensors> samples{torch::randn({6, 3, 8, 10}), torch::randn({6, 3, 8, 10})};
  const auto forward = nn::forward_of(*intercepted);
  const auto reference = nn::forward_of(*plain);
  const auto found = deploy::quantize_for_deployment(*intercepted, forward, samples);
  ASSERT_TRUE(found.ok()) << found.error().message;
  const auto expected = deploy::quantize_for_deployment(*plain, reference, samples).value();
  ASSERT_EQ(found->layers.size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(found->layers[i].frozen) << i;
    EXPECT_EQ(found->layers[i].folded, i == 0) << i;
    EXPECT_EQ(found->layers[i].error_after, expected.layers[i].error_after) << i;
  }
  EXPECT_TRUE(torch::equal(forward(samples[1])[0].second, reference(samples[1])[0].second));
  EXPECT_EQ(intercepted->save_to(std::filesystem::temp_directory_path() / "bitlab_frozen.pt").error().message,
            "[bit_model] layers as the rules made them, got codes of post-training quantization, which are deployed "
            "(layer=conv1)");

  const auto loss_of = [&](const auto& f) {
    return [&]() -> Result<double> { return f(samples[0])[0].second.square().sum().template item<double>(); };
  };
  const auto a = convert::analyze(*intercepted, loss_of(forward)).value(),
             b = convert::analyze(*plain, loss_of(reference)).value();
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) EXPECT_EQ(a.layers[i].loss, b.layers[i].loss) << i;
  EXPECT_EQ(a.layers[1].path, "conv2");
}

}  // namespace
}  // namespace bitlab
