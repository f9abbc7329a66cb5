// Networks of several inputs, outputs and symbols: captured, written, loaded and run at other sizes than they were recorded at.
#include "bitlab/deploy/signature.h"

#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_transformer.h"
#include "bitlab/program/kv_state.h"

namespace bitlab::deploy {
namespace {

namespace F = torch::nn::functional;
using program::DType, program::kBatch, program::Shape;
using test::same_bits;

void expect_same(const NamedTensors& found, const NamedTensors& expected, Promise promise, const std::string& what) {
  ASSERT_EQ(found.names(), expected.names()) << what;
  for (const auto& [name, tensor] : expected) {
    EXPECT_EQ(found.at(name).sizes(), tensor.sizes()) << what << " " << name;
    if (promise == Promise::kExact) {
      EXPECT_TRUE(same_bits(found.at(name), tensor)) << what << " " << name;
    } else {
      EXPECT_TRUE(torch::allclose(found.at(name).to(at::kDouble), tensor.to(at::kDouble), 1e-3, 1e-4))
          << what << " " << name;
    }
  }
}

// A module made of a function of named tensors.
struct NamedNet : torch::nn::Module {
  std::function<NamedTensors(const NamedTensors&)> body;
  NamedTensors forward(const NamedTensors& inputs) { return body(inputs); }
};

program::Program written_and_read(const program::Program& program) {
  const auto path = std::filesystem::path(::testing::TempDir()) / ("signature_test_" + std::to_string(getpid()) + ".bit");
  format::bit::save(program, path).value();
  program::Program read = format::bit::load(path).value();
  std::filesystem::remove(path);
  return read;
}

// ---------------------------------------------------------------- a language model

// A block of a GPT: tied embeddings, rotary positions, causal attention in groups; trained ternary.
struct GptImpl : torch::nn::Module {
  static constexpr int64_t kVocabulary = 50, kWidth = 32;

  GptImpl() {
    const auto options = nn::BitTransformerBlockOptions(kWidth, 4)
                             .num_kv_heads(2)
                             .hidden_dim(48)
                             .activation(nn::Activation::kSwiGlu)
                             .norm(nn::NormKind::kRms)
                             .norm_first(true)
                             .bias(false)
                             .causal(true)
                             .rope_theta(10000);
    table = register_module("table", nn::BitEmbedding(kVocabulary, kWidth));
    block = register_module("block", nn::BitTransformerBlock(options));
    norm = register_module("norm", nn::BitRMSNorm(nn::BitRMSNormOptions({kWidth}).quant(BitQuantConfig::none())));
    head = register_module("head", nn::BitLinear(nn::BitLinearOptions(kWidth, kVocabulary).bias(false)));
    head->adopt(table->weight, {});
  }
  at::Tensor logits(const at::Tensor& tokens, nn::KvState* state = nullptr) {
    return head->forward(norm->forward(block->forward(table->forward(tokens), state)));
  }
  NamedTensors forward(const NamedTensors& inputs) { return {{"logits", logits(inputs.at("tokens"))}}; }

  nn::BitEmbedding table{nullptr};
  nn::BitTransformerBlock block{nullptr};
  nn::BitRMSNorm norm{nullptr};
  nn::BitLinear head{nullptr};
};
TORCH_MODULE(Gpt);

Signature gpt_signature(int64_t most = 64) {
  Signature signature;
  const program::Dim tokens = signature.symbol("tokens", 1, most);
  signature.inputs = {{"tokens", {DType::kInt64, {kBatch, tokens}}}};
  return signature;
}

// A few steps on one sequence, so that the weights are no longer their initialization.
void train(Gpt& gpt) {
  torch::optim::Adam optimizer(gpt->parameters(), 1e-2);
  const at::Tensor text = torch::arange(40).remainder(7).view({2, 20});
  double first = 0, last = 0;
  for (int step = 0; step < 12; ++step) {
    optimizer.zero_grad();
    const at::Tensor logits = gpt->logits(text.narrow(1, 0, 19));
    const at::Tensor loss = F::cross_entropy(logits.flatten(0, 1), text.narrow(1, 1, 19).flatten());
    loss.backward();
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.9 * first);
}

TEST(LanguageModel, TrainedCapturedWrittenAndDecodedTokenByToken) {
  torch::manual_seed(1);
  Gpt gpt;
  train(gpt);
  const at::Tensor tokens = torch::randint(GptImpl::kVocabulary, {3, 13});
  const auto captured = capture(*gpt, {{"tokens", tokens}}, {.signature = gpt_signature()}).value();
  int64_t tables = 0, rotary = 0;
  for (const program::Value& v : captured.values)
    tables += v.storage == program::Storage::kTernary && v.shape == Shape{GptImpl::kVocabulary, GptImpl::kWidth};
  for (const program::Node& node : captured.nodes) rotary += node.op == program::Op::rotary;
  EXPECT_EQ(tables, 1) << "the table is the projection's weight";
  EXPECT_EQ(rotary, 2);
  for (const program::Constant& constant : captured.constants)
    EXPECT_NE(captured.value(constant.value).name, "constant") << "positions are no baked tables";

  const at::NoGradGuard no_grad;
  gpt->eval();
  const auto plain = written_and_read(captured);
  for (const auto& [batch, length] : {std::pair{3, 13}, {1, 1}, {2, 7}, {1, 64}}) {
    const at::Tensor some = torch::randint(GptImpl::kVocabulary, {batch, length});
    expect_same(run(plain, {{"tokens", some}}).value(), gpt->forward({{"tokens", some}}), Promise::kBounded,
                fmt::format("{} x {}", batch, length));
  }

  const auto decoder = written_and_read(program::add_kv_state(captured).value());
  EXPECT_EQ(decoder.states.size(), 2U);
  const at::Tensor whole = run(plain, {{"tokens", tokens}}).value().at("logits");
  for (const std::vector<int64_t>& parts : {std::vector<int64_t>{13}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {5, 1, 7}}) {
    auto session = runtime::Session::create(runtime::Model::create(decoder).value(), {2, {}}).value();
    for (int64_t round = 0; round < 2; ++round, session->reset()) {
      int64_t begin = 0;
      for (const int64_t length : parts) {
        const at::Tensor logits = run(*session, {{"tokens", tokens.narrow(1, begin, length)}}).value().at("logits");
        EXPECT_TRUE(same_bits(logits, whole.narrow(1, begin, length))) << begin << " of " << parts.size() << " parts";
        begin += length;
      }
      EXPECT_EQ(session->position(), 13);
    }
  }
}

// The module's own state and the runtime's make the same text.
TEST(LanguageModel, GreedyTextIsThatOfTheModule) {
  torch::manual_seed(2);
  const at::NoGradGuard no_grad;
  Gpt gpt;
  gpt->eval();
  const auto program = capture(*gpt, {{"tokens", torch::randint(50, {1, 4})}}, {.signature = gpt_signature()}).value();
  auto session = runtime::Session::create(runtime::Model::create(program::add_kv_state(program).value()).value()).value();
  nn::KvState state;
  at::Tensor next = torch::tensor({{7, 3, 11}});
  for (int i = 0; i < 40; ++i) {
    const at::Tensor theirs = gpt->logits(next, &state).select(1, -1).argmax(-1),
                     ours = run(*session, {{"tokens", next}}).value().at("logits").select(1, -1).argmax(-1);
    ASSERT_TRUE(at::equal(theirs, ours)) << i;
    next = ours.view({1, 1});
  }
  EXPECT_EQ(session->position(), 42);
  EXPECT_EQ(session->run(std::vector<runtime::TensorView>{{{1, 23}, next.const_data_ptr<int64_t>()}}).error().message,
            "[session] at most 64 positions, got 23 behind 42 (reset or truncate)");
}

TEST(LanguageModel, NodesAreComparedAtTheSizesOfTheExample) {
  torch::manual_seed(3);
  Gpt gpt;
  const at::Tensor tokens = torch::randint(50, {2, 9});
  const auto program = capture(*gpt, {{"tokens", tokens}}, {.signature = gpt_signature()}).value();
  const auto nodes = compare_nodes(program, *gpt, nn::forward_of(*gpt), {{"tokens", tokens}}, gpt_signature()).value();
  EXPECT_GT(nodes.size(), 15U);
  for (const NodeDifference& node : nodes)
    EXPECT_TRUE(!node.fed_exactly || node.bounded || node.different == 0) << node.node;
  EXPECT_TRUE(std::any_of(nodes.begin(), nodes.end(), [](const NodeDifference& n) { return n.op == "rotary"; }));
}

// ---------------------------------------------------------------- positions and masks that grow

struct Learned : torch::nn::Module {
  Learned() {
    table = register_module("table", torch::nn::Embedding(20, 8));
    places = register_module("places", torch::nn::Embedding(24, 8));
    mask = register_buffer("mask", torch::full({1, 24, 24}, -1e9).triu(1));
    slope = register_buffer("slope", torch::randn({24, 8}));
  }
  torch::nn::Embedding table{nullptr}, places{nullptr};
  at::Tensor mask, slope;
};

TEST(Symbols, PositionsAndConstantsThatGrow) {
  torch::manual_seed(4);
  Learned net;
  const auto forward = [&](const NamedTensors& inputs) -> NamedTensors {
    const at::Tensor ids = inputs.at("ids");
    const int64_t count = ids.size(1);
    const at::Tensor x = net.table(ids) + net.places(torch::arange(count)) + net.slope.narrow(0, 0, count);
    const at::Tensor scores = x.matmul(x.transpose(1, 2)) + net.mask.narrow(1, 0, count).narrow(2, 0, count);
    const at::Tensor y = at::softmax(scores, -1).matmul(x);
    return {{"all", y}, {"last", y.select(1, -1)}, {"mean", y.mean(1)}};
  };
  Signature signature;
  signature.inputs = {{"ids", {DType::kInt64, {kBatch, signature.symbol("tokens", 1, 24)}}}};
  const auto program =
      written_and_read(capture(net, forward, {{"ids", torch::randint(20, {2, 6})}}, {.signature = signature}).value());
  for (const auto& [batch, length] : {std::pair{1, 1}, {2, 6}, {3, 24}, {1, 17}}) {
    const at::Tensor ids = torch::randint(20, {batch, length});
    const at::NoGradGuard no_grad;
    expect_same(run(program, {{"ids", ids}}).value(), forward({{"ids", ids}}), Promise::kBounded,
                fmt::format("{} x {}", batch, length));
  }
  EXPECT_EQ(run(program, {{"ids", torch::zeros({1, 25}, at::kLong)}}).error().message,
            "[session] tokens from 1 to 24, got 25");

  Signature unbounded;
  unbounded.inputs = {{"ids", {DType::kInt64, {kBatch, unbounded.symbol("tokens")}}}};
  EXPECT_EQ(capture(net, forward, {{"ids", torch::randint(20, {2, 6})}}, {.signature = unbounded}).error().message,
            "[capture] a largest size of 'tokens', with which a constant grows, got none (operator=aten::add.Tensor)");
}

TEST(Symbols, CausalMasksAreCausalAttention) {
  torch::manual_seed(5);
  torch::nn::Module net;
  for (const bool additive : {false, true}) {
    const auto forward = [&](const NamedTensors& inputs) -> NamedTensors {
      const at::Tensor x = inputs.at("x");
      at::Tensor mask = torch::ones({x.size(2), x.size(2)}, at::kBool).tril();
      if (additive) mask = torch::zeros({x.size(2), x.size(2)}).masked_fill(mask.logical_not(), -INFINITY);
      return {{"y", at::scaled_dot_product_attention(x, x, x, mask)}};
    };
    Signature signature;
    signature.inputs = {{"x", {DType::kFloat32, {kBatch, 2, signature.symbol("tokens"), 8}}}};
    const at::Tensor x = torch::randn({2, 2, 9, 8});
    const auto program = capture(net, forward, {{"x", x}}, {.signature = signature}).value();
    ASSERT_EQ(program.nodes.size(), 1U);
    EXPECT_EQ(program.nodes[0].attribute<int64_t>("causal"), 1);
    expect_same(run(program, {{"x", x}}).value(), forward({{"x", x}}), Promise::kBounded, "masked");
    EXPECT_TRUE(program::add_kv_state(program).ok());
  }
}

TEST(Symbols, MasksOfPaddingAreInputs) {
  torch::manual_seed(6);
  torch::nn::Module net;
  const auto forward = [](const NamedTensors& inputs) -> NamedTensors {
    const at::Tensor x = inputs.at("x");
    return {{"y", at::scaled_dot_product_attention(x, x, x, inputs.at("mask"))}};
  };
  Signature signature;
  const program::Dim tokens = signature.symbol("tokens");
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, 2, tokens, 8}}}, {"mask", {DType::kBool, {kBatch, 1, 1, tokens}}}};
  const at::Tensor x = torch::randn({3, 2, 9, 8});
  at::Tensor mask = torch::ones({3, 1, 1, 9}, at::kBool);
  mask.index_put_({1, 0, 0, torch::indexing::Slice(4)}, false);
  const auto program = written_and_read(capture(net, forward, {{"x", x}, {"mask", mask}}, {.signature = signature}).value());
  expect_same(run(program, {{"mask", mask}, {"x", x}}).value(), forward({{"x", x}, {"mask", mask}}), Promise::kBounded,
              "mask");
}

// ---------------------------------------------------------------- several inputs and outputs

// Picture and text in, boxes and scores out.
TEST(SeveralEnds, ADetectorAskedByText) {
  torch::manual_seed(7);
  NamedNet net;
  nn::BitConv2d conv = net.register_module("conv", nn::BitConv2d(nn::BitConv2dOptions(3, 8, 3).stride(2).padding(1)));
  nn::BitEmbedding words = net.register_module("words", nn::BitEmbedding(30, 8));
  nn::BitLinear boxes = net.register_module("boxes", nn::BitLinear(8, 4));
  nn::BitLinear scores = net.register_module("scores", nn::BitLinear(8, 1000));
  net.body = [=](const NamedTensors& inputs) mutable -> NamedTensors {
    const at::Tensor picture = at::relu(conv(inputs.at("picture"))).flatten(2).transpose(1, 2);
    const at::Tensor text = words(inputs.at("text")).mean(1, true);
    const at::Tensor h = picture + text;
    return {{"boxes", boxes(h).sigmoid()}, {"scores", scores(h)}};
  };
  const NamedTensors example{{"picture", torch::randn({2, 3, 8, 10})}, {"text", torch::randint(30, {2, 5})}};
  const auto path = std::filesystem::path(::testing::TempDir()) / ("detector_" + std::to_string(getpid()) + ".bit");
  const Deployment deployment = save(net, example, path).value();
  EXPECT_LE(deployment.parity.max_difference, 1e-3);
  const auto program = format::bit::load(path).value();
  std::filesystem::remove(path);
  EXPECT_EQ(to_string(program.signature()),
            "(picture: float32[batch, 3, 8, 10], text: int64[batch, 5]) -> "
            "(boxes: float32[batch, 20, 4], scores: float32[batch, 20, 1000])");
  const NamedTensors other{{"text", torch::randint(30, {5, 5})}, {"picture", torch::randn({5, 3, 8, 10})}};
  const at::NoGradGuard no_grad;
  expect_same(run(program, other).value(), net.forward(other), Promise::kBounded, "another batch, another order");
  EXPECT_EQ(run(program, {{"picture", torch::randn({2, 3, 8, 10})}, {"text", torch::randint(30, {3, 5})}}).error().message,
            "[session] input [batch, 5] at the batch 2 of those before it, got [3, 5] (input=text)");
}

// What a diffusion UNet takes: a picture of any size in steps of 4, and a time for each sample.
TEST(SeveralEnds, ANoisePredictorOfPictureAndTime) {
  torch::manual_seed(8);
  NamedNet net;
  nn::BitConv2d down = net.register_module("down", nn::BitConv2d(nn::BitConv2dOptions(3, 8, 3).stride(2).padding(1)));
  nn::BitConv2d deep = net.register_module("deep", nn::BitConv2d(nn::BitConv2dOptions(8, 8, 3).stride(2).padding(1)));
  nn::BitConvTranspose2d up = net.register_module("up", nn::BitConvTranspose2d(nn::BitConv2dOptions(8, 8, 2).stride(2)));
  nn::BitConvTranspose2d out = net.register_module("out", nn::BitConvTranspose2d(nn::BitConv2dOptions(16, 3, 2).stride(2)));
  nn::BitLinear time = net.register_module("time", nn::BitLinear(8, 8));
  const at::Tensor frequencies = net.register_buffer("frequencies", torch::linspace(0, 1, 8));
  net.body = [=](const NamedTensors& inputs) mutable -> NamedTensors {
    const at::Tensor t = at::silu(time(at::sigmoid(inputs.at("t") * frequencies)));
    const at::Tensor a = at::relu(down(inputs.at("x")));
    const at::Tensor b = at::relu(deep(a) + t.unsqueeze(-1).unsqueeze(-1));
    return {{"noise", out(at::cat({up(b), a}, 1))}};
  };
  Signature signature;
  const auto size = [&](const char* name) { return signature.symbol(name, 1, 64) * program::Dim(4); };
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, 3, size("height"), size("width")}}},
                      {"t", {DType::kFloat32, {kBatch, 1}}}};
  const NamedTensors example{{"x", torch::randn({1, 3, 8, 12})}, {"t", torch::rand({1, 1})}};
  const auto program = written_and_read(capture(net, example, {.signature = signature}).value());
  for (const auto& [height, width] : {std::pair{8, 12}, {4, 4}, {36, 20}}) {
    const NamedTensors inputs{{"x", torch::randn({2, 3, height, width})}, {"t", torch::rand({2, 1})}};
    const at::NoGradGuard no_grad;
    expect_same(run(program, inputs).value(), net.forward(inputs), Promise::kBounded, fmt::format("{} x {}", height, width));
  }
  EXPECT_EQ(run(program, {{"x", torch::randn({1, 3, 6, 4})}, {"t", torch::rand({1, 1})}}).error().message,
            "[session] input [batch, 3, 4*height, 4*width], got [1, 3, 6, 4] (input=x)");
}

TEST(SeveralEnds, OtherTypesThanFloat32) {
  NamedNet net;
  net.body = [](const NamedTensors& inputs) -> NamedTensors {
    const at::Tensor y = inputs.at("half").to(at::kFloat) + inputs.at("brain").to(at::kFloat);
    return {{"half", y.to(at::kHalf)}, {"whole", (y * 10).to(at::kLong)}, {"any", y.to(at::kBool)}};
  };
  const NamedTensors example{{"half", torch::randn({2, 5}).to(at::kHalf)},
                             {"brain", torch::randn({2, 5}).to(at::kBFloat16)}};
  const auto program = capture(net, example).value();
  expect_same(run(program, example).value(), net.forward(example), Promise::kExact, "casts");
}

TEST(Signatures, SayWhatDoesNotFit) {
  NamedNet net;
  net.body = [](const NamedTensors& inputs) -> NamedTensors { return {{"y", at::relu(inputs.at("x"))}}; };
  Signature signature;
  const program::Dim tokens = signature.symbol("tokens", 1, 2), wide = signature.symbol("width", 1, 32);
  const auto message_of = [&](const NamedTensors& example) {
    return capture(net, example, {.signature = signature}).error().message;
  };
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, wide * program::Dim(3)}}}};
  EXPECT_EQ(message_of({{"y", torch::randn({2, 6})}}), "[capture] an example of 'x', got y");
  EXPECT_EQ(message_of({{"x", torch::randn({2, 7})}}),
            "[capture] an example of shape [batch, 3*width], got [2, 7] (input=x)");
  EXPECT_EQ(message_of({{"x", torch::zeros({2, 6}, at::kLong)}}), "[capture] float32 values, got Long (input=x)");
  EXPECT_EQ(message_of({{"x", torch::randn({2, 6})}, {"z", torch::randn({2, 6})}}),
            "[capture] inputs of the signature (x: float32[batch, 3*width]) -> (), got 'z' too");
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, tokens}}}};
  EXPECT_EQ(message_of({{"x", torch::randn({2, 2})}}),
            "[capture] a range with two primes of its own to record at, got 1 to 2 (symbol=tokens)");
  EXPECT_EQ(capture(net, {{"x", torch::tensor(3.0F)}}).error().message,
            "[capture] an example of shape [batch, ...], got [] (input=x)");
}

// A causal convolution: padding in front, a window that leaves fewer, and what is read of the end.
TEST(Signatures, SizesMayHaveNumbersAdded) {
  torch::manual_seed(4);
  const at::Tensor weight = torch::randn({3, 2, 4});
  NamedNet net;
  net.body = [&](const NamedTensors& inputs) -> NamedTensors {
    const at::Tensor &x = inputs.at("x"), y = at::conv1d(F::pad(x, F::PadFuncOptions({2, 0})), weight);
    return {{"y", y},
            {"steps", y.slice(2, 1) - y.slice(2, 0, -1)},
            {"rows", y.slice(2, 0, c10::nullopt, 2).transpose(1, 2).reshape({-1, 3})}};
  };
  Signature signature;
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, 2, signature.symbol("tokens")}}}};
  const auto program = written_and_read(capture(net, {{"x", torch::randn({2, 2, 9})}}, {.signature = signature}).value());
  EXPECT_EQ(to_string(program.signature()),
            "(x: float32[batch, 2, tokens]) -> (y: float32[batch, 3, tokens-1], steps: float32[batch, 3, tokens-2], rows: "
            "float32[batch*(tokens/2), 3])");
  EXPECT_EQ(program.symbols[1].min, 3) << "what two differences need";
  for (const auto& [batch, tokens] : {std::pair{1, 3}, {3, 4}, {2, 5}, {5, 64}}) {
    const NamedTensors inputs{{"x", torch::randn({batch, 2, tokens})}};
    expect_same(run(program, inputs).value(), net.forward(inputs), Promise::kBounded, fmt::format("{} x {}", batch, tokens));
  }
  EXPECT_EQ(run(program, {{"x", torch::randn({2, 2, 2})}}).error().message,
            "[session] tokens from 3 to 1099511627776, got 2");
}

// Two recordings could not tell 4 and 6 as a token less than 5 and 7 from twice 2 and 3 samples.
TEST(Signatures, ThreeRecordingsTellSizes) {
  program::Symbols symbols{{"batch", 0}, {"tokens"}, {"frames"}};
  const std::vector<program::SymbolSizes> sizes = recording_sizes(symbols).value();
  ASSERT_EQ(sizes.size(), 3U);
  const program::Dim tokens = program::Dim::of_symbol(1), frames = program::Dim::of_symbol(2);
  std::vector<program::Dim> dims{kBatch, tokens * kBatch * program::Dim(6), tokens * frames};
  for (int64_t factor = 1; factor <= 3; ++factor)
    for (int64_t offset = -4; offset <= 9; ++offset)
      for (const program::Dim& unit : {tokens, frames, tokens * frames}) {
        const auto dim = sum(with_factor(unit, factor), offset);
        dims.push_back(*dim);
        dims.push_back(kBatch * *dim);
      }
  for (const program::Dim& dim : dims) {
    std::vector<int64_t> found;
    for (const program::SymbolSizes& at : sizes) found.push_back(dim.at(at));
    if (found[0] < 1) continue;
    const auto told = dim_of(found, sizes, symbols.size());
    ASSERT_TRUE(told.has_value()) << to_string(dim, symbols);
    EXPECT_EQ(to_string(*told, symbols), to_string(dim, symbols));
  }
  symbols[1].max = 6;  // primes from 2 to 5
  symbols[2].max = 8;
  EXPECT_EQ(recording_sizes(symbols).value().size(), 2U) << "no third prime of the small ranges";
}

// Multiples of 4 and of 8 above 5, 7 and 24 are the same: a size at which they differ is asked for.
TEST(Signatures, MoreRecordingsTellRoundedParts) {
  const program::Symbols symbols{{"batch", 0}, {"tokens"}, {"frames"}};
  const std::vector<program::SymbolSizes> recorded = recording_sizes(symbols).value();
  for (const size_t symbol : {size_t{1}, size_t{2}})
    for (const int64_t parts : {2, 3, 4, 7, 8, 16, 32, 64})
      for (const bool is_multiple : {false, true})
        for (const int64_t more : {int64_t{0}, parts - 1})
          for (const int64_t number : {-1, 0, 2}) {
            const auto wanted = [&](const program::SymbolSizes& at) {
              return (at[symbol] + more) / parts * (is_multiple ? parts : 1) + number;
            };
            const auto is_empty = [&](const program::SymbolSizes& at) { return wanted(at) < 1; };
            if (std::any_of(recorded.begin(), recorded.end(), is_empty)) continue;
            std::vector<program::SymbolSizes> sizes = recorded;
            std::vector<program::Dim> forms;
            for (bool is_told = false; !is_told;) {
              std::vector<int64_t> found;
              for (const program::SymbolSizes& at : sizes) found.push_back(wanted(at));
              forms = dims_of(found, sizes, symbols.size());
              const auto telling = forms.size() < 2 ? std::nullopt : telling_sizes(forms, symbols, sizes[0], sizes.back());
              is_told = !telling;
              if (telling) sizes.push_back(*telling);
            }
            const std::string name =
                fmt::format("{} parts of {}, {} more, {} multiple, and {}", parts, symbol, more, is_multiple, number);
            ASSERT_FALSE(forms.empty()) << name;
            if (forms[0].is_number()) continue;  // the same at all of these sizes, which tell nothing else
            program::SymbolSizes at = program::kOnes;
            for (at[symbol] = recorded[0][symbol]; at[symbol] < 200; ++at[symbol])
              ASSERT_EQ(forms[0].at(at), std::max<int64_t>(wanted(at), 0)) << name << " at " << at[symbol];
            EXPECT_LE(sizes.size(), 8U) << name;
          }
}

// What images are scaled to, rounded down.
TEST(Signatures, MultiplesOfPartsAreTold) {
  const program::Symbols symbols{{"batch", 0}, {"height"}, {"width"}};
  std::vector<program::SymbolSizes> sizes = recording_sizes(symbols).value();
  for (const int64_t larger : {29, 131}) sizes.push_back({2, larger, larger + 6});
  for (const auto& [over, under] : {std::pair{3, 2}, {3, 4}, {5, 2}, {2, 3}, {7, 5}}) {
    std::vector<int64_t> found;
    for (const program::SymbolSizes& at : sizes) found.push_back(at[2] * over / under);
    const auto forms = dims_of(found, sizes, symbols.size());
    ASSERT_FALSE(forms.empty()) << over << " / " << under;
    EXPECT_EQ(forms[0], *program::quotient(with_factor(program::Dim::of_symbol(2), over), 0, under));
  }
}

TEST(KvStates, AreRefusedWhereTokensMix) {
  NamedNet net;
  net.body = [](const NamedTensors& inputs) -> NamedTensors {
    const at::Tensor x = inputs.at("x");
    const at::Tensor y = at::scaled_dot_product_attention(x, x, x, {}, 0, true);
    return {{"y", y.mean(2)}};
  };
  Signature signature;
  signature.inputs = {{"x", {DType::kFloat32, {kBatch, 2, signature.symbol("tokens"), 8}}}};
  const auto program = capture(net, {{"x", torch::randn({1, 2, 3, 8})}}, {.signature = signature}).value();
  EXPECT_EQ(program::add_kv_state(program).error().message,
            "[add_kv_state] operations that treat tokens one by one besides attention, got mean (node=mean)");
  EXPECT_EQ(program::add_kv_state(program, "words").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace bitlab::deploy
