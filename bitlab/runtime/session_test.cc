// The runtime against the scalar oracle and plain loops.
#include "bitlab/runtime/session.h"

#include <cmath>
#include <limits>
#include <thread>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::runtime {
namespace {

using kernels::test::packed;
using kernels::test::random_floats;
using kernels::test::random_int8;
using kernels::test::same_bits;
using program::DType;
using program::kBatch;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::Storage;
using program::ValueId;

const program::Attributes kConv{
    {"stride", Sizes{1, 1}},    {"padding", Sizes{1, 1}},        {"dilation", Sizes{1, 1}},          {"groups", int64_t{1}},
    {"transposed", int64_t{0}}, {"output_padding", Sizes{0, 0}}, {"activation", std::string("int8")}};
const program::Attributes kPool{
    {"kernel_size", Sizes{2, 2}}, {"stride", Sizes{2, 2}}, {"padding", Sizes{0, 0}}, {"dilation", Sizes{1, 1}}};

constexpr const float* kNothing = nullptr;

// conv 3x3 (2 -> 6) - relu - max-pool - flatten - linear (96 -> 5), the shape of a small LeNet, with the oracle's answer.
struct SmallNet {
  static constexpr int64_t kSide = 8, kChannels = 2, kFilters = 6, kClasses = 5, kDepth = kFilters * kSide * kSide / 4;
  std::vector<int8_t> conv = random_int8(kFilters * 9 * kChannels, 1, -1, 1), fc = random_int8(kClasses * kDepth, 2, -1, 1);
  std::vector<float> conv_scale = random_floats(kFilters, 3, 0.1F), fc_scale{0.03F}, bias = random_floats(kClasses, 4);

  program::Program program() const {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, kChannels, kSide, kSide});
    const ValueId w1 = b.ternary("w1", {kFilters, 3, 3, kChannels}, packed(conv, kFilters, 9 * kChannels), conv_scale);
    const ValueId w2 = b.ternary("w2", {kClasses, kDepth}, packed(fc, kClasses, kDepth), fc_scale);
    const ValueId b2 = b.floats("b2", {kClasses}, bias);
    ValueId v = *b.node(Op::ternary_conv, "conv", {x, w1, program::kNone}, kConv);
    v = *b.node(Op::relu, "relu", {v});
    v = *b.node(Op::max_pool, "pool", {v}, kPool);
    v = *b.node(Op::reshape, "flatten", {v}, {{"shape", Shape{kBatch, kDepth}}});
    v = *b.node(Op::ternary_linear, "fc", {v, w2, b2}, {{"activation", std::string("int8")}});
    return *b.finish({v});
  }

  std::vector<float> oracle(const std::vector<float>& x, int64_t batch) const {
    using namespace ternary::oracle;
    const ConvShape shape{.batch = batch,
                          .channels = kChannels,
                          .input = {1, kSide, kSide},
                          .filters = kFilters,
                          .kernel = {1, 3, 3},
                          .padding = {0, 1, 1}};
    const std::vector<float> a = ternary::oracle::conv(x, conv, conv_scale, {}, shape);
    std::vector<float> pooled;
    for (int64_t plane = 0; plane < batch * kFilters; ++plane)
      for (int64_t y = 0; y < kSide; y += 2)
        for (int64_t c = 0; c < kSide; c += 2) {
          const float* p = &a[static_cast<size_t>(plane * kSide * kSide + y * kSide + c)];
          pooled.push_back(std::max({p[0], p[1], p[kSide], p[kSide + 1], 0.0F}));
        }
    return linear(pooled, batch, fc, kClasses, kDepth, fc_scale, bias);
  }
};

std::shared_ptr<const Model> model_of(const program::Program& p, const char* policy = "") {
  return Model::create(p, {this_machine(), {policy}}).value();
}

std::vector<float> run(Session& session, const std::vector<float>& x, int64_t batch) {
  const TensorView view{{batch, 2, 8, 8}, x.data()};
  const auto outputs = session.run({&view, 1}).value();
  EXPECT_EQ(outputs[0].shape, (std::vector<int64_t>{batch, 5}));
  return {outputs[0].as(), outputs[0].as() + batch * 5};
}

TEST(Session, EqualsTheOracleForEveryKernelThreadCountAndBatch) {
  const SmallNet net;
  const auto x = random_floats(9 * 128, 7);
  const auto expected = net.oracle(x, 9);
  for (const char* policy : {"ternary_gemm:reference", ""})
    for (int threads : {1, 2, 4}) {
      auto session = Session::create(model_of(net.program(), policy), {threads, {}}).value();
      EXPECT_TRUE(same_bits(run(*session, x, 9), expected)) << policy << " " << threads;
      for (int64_t i = 0; i < 9; ++i) {
        const std::vector<float> one(x.begin() + i * 128, x.begin() + (i + 1) * 128);
        EXPECT_TRUE(same_bits(run(*session, one, 1), std::span(expected).subspan(static_cast<size_t>(i * 5), 5)));
      }
      EXPECT_TRUE(same_bits(run(*session, x, 9), expected)) << "after another batch size";
    }
}

// Every scaling and kind of activation, through a file and back, on linear layers and convolutions.
TEST(Session, EveryScalingAndActivationEqualsTheOracle) {
  constexpr int64_t kRows = 7, kTaps = 6, kChannels = 64, kDepth = kTaps * kChannels, kSamples = 3;
  using ternary::ActKind;
  const auto t = random_int8(kRows * kDepth, 1, -1, 1);
  const auto x = random_floats(kSamples * kChannels * 4 * 5, 2), bias = random_floats(kRows, 3);
  auto scales = random_floats(kRows * kTaps, 4, 0.1F);
  for (float& s : scales) s = half_to_float(float_to_half(s));
  const float step = 0.031F;
  enum Scaling { kTensor, kChannel, kTwo, kGroups };
  for (Scaling scaling : {kTensor, kChannel, kTwo, kGroups})
    for (ActKind kind : {ActKind::kInt8, ActKind::kInt4, ActKind::kInt8Static, ActKind::kInt4Static})
      for (bool convolution : {false, true}) {
        program::TernaryScales stored;
        const auto count = static_cast<int64_t>(scaling == kTensor ? 1 : scaling == kGroups ? kRows * kTaps : kRows);
        const std::vector<float> plain(scales.begin(), scales.begin() + count),
            negative(scales.rbegin(), scales.rbegin() + count);
        ternary::oracle::Weight weight{.t = t, .scale = plain, .bias = bias};
        if (scaling == kGroups) {
          weight.group = stored.group = kChannels;
          for (float s : plain) stored.group_scale.push_back(float_to_half(s));
        } else {
          stored.scale = plain;
          if (scaling == kTwo) weight.scale_neg = stored.scale_neg = negative;
        }
        ProgramBuilder b;
        const program::Shape input = convolution ? program::Shape{kBatch, kChannels, 4, 5} : program::Shape{kBatch, kDepth};
        const ValueId in = b.input("x", input);
        const ValueId w =
            b.ternary("w", convolution ? std::vector<int64_t>{kRows, 2, 3, kChannels} : std::vector<int64_t>{kRows, kDepth},
                      packed(t, kRows, kDepth), stored);
        const ValueId add = b.floats("b", {kRows}, bias);
        const ValueId s = is_static(kind) ? b.floats("s", {1}, {step}) : program::kNone;
        auto attributes = kConv;
        if (!convolution) attributes.clear();
        attributes["activation"] = std::string(name(kind));
        const ValueId y = *b.node(convolution ? Op::ternary_conv : Op::ternary_linear, "layer", {in, w, add, s}, attributes);
        const program::Program made = *b.finish({y});
        const std::string bytes = format::bit::serialize(made).value();
        AlignedBuffer file = *AlignedBuffer::allocate(bytes.size());
        std::memcpy(file.data(), bytes.data(), bytes.size());
        const program::Program read = format::bit::parse(file.bytes(), nullptr).value();
        EXPECT_EQ(format::bit::serialize(read).value(), bytes);

        auto session = Session::create(model_of(read), {2, {}}).value();
        const TensorView view{shape_at(input, program::at_batch(kSamples)), x.data()};
        const auto found = session->run({&view, 1});
        ASSERT_TRUE(found.ok()) << found.error().message;
        const ternary::oracle::Activation activation{static_cast<float>(act_limit(kind)), is_static(kind) ? step : 0.0F};
        const auto used = std::span(x).first(static_cast<size_t>(elements(input, program::at_batch(kSamples))));
        const auto expected = convolution ? ternary::oracle::conv(used, weight,
                                                                  {.batch = kSamples,
                                                                   .channels = kChannels,
                                                                   .input = {1, 4, 5},
                                                                   .filters = kRows,
                                                                   .kernel = {1, 2, 3},
                                                                   .padding = {0, 1, 1}},
                                                                  activation)
                                          : ternary::oracle::linear(used, kSamples, weight, kRows, kDepth, activation);
        EXPECT_TRUE(same_bits({(*found)[0].as(), expected.size()}, expected))
            << scaling << " " << name(kind) << " " << convolution;
      }
}

TEST(Session, FloatActivationsMeetTernaryWeights) {
  constexpr int64_t kRows = 9, kDepth = 77, kTokens = 5;
  const auto t = random_int8(kRows * kDepth, 1, -1, 1);
  const auto x = random_floats(kTokens * kDepth, 2), scale = random_floats(kRows, 3);
  ProgramBuilder b;
  const ValueId in = b.input("x", {kBatch, kDepth});
  const ValueId w = b.ternary("w", {kRows, kDepth}, packed(t, kRows, kDepth), scale);
  const ValueId y = *b.node(Op::ternary_linear, "layer", {in, w}, {{"activation", std::string("none")}});
  auto session = Session::create(model_of(*b.finish({y}))).value();
  const TensorView view{{kTokens, kDepth}, x.data()};
  const auto found = session->run({&view, 1}).value();
  for (int64_t m = 0; m < kTokens; ++m)
    for (int64_t n = 0; n < kRows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < kDepth; ++k)
        sum += double{x[static_cast<size_t>(m * kDepth + k)]} * t[static_cast<size_t>(n * kDepth + k)];
      EXPECT_NEAR(found[0].as()[m * kRows + n], sum * scale[static_cast<size_t>(n)], 1e-4);
    }
}

TEST(Session, ManyRunConcurrentlyOnOneModel) {
  const SmallNet net;
  const auto model = model_of(net.program());
  const auto x = random_floats(4 * 128, 8);
  const auto expected = net.oracle(x, 4);
  std::vector<std::jthread> threads;
  std::atomic<int> equal{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      auto session = Session::create(model, {1 + i % 2, {}}).value();
      for (int round = 0; round < 20; ++round) equal += same_bits(run(*session, x, 4), expected);
    });
  threads.clear();
  EXPECT_EQ(equal, 80);
}

TEST(Session, RunsFloatLayersInTheRankFourOrderOfTheCaller) {
  // 1x1 convolution that swaps two channels: the output, of rank 4, must come back as [batch, channels, height, width].
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2, 3, 4});
  const ValueId w = b.floats("w", {2, 1, 1, 2}, {0, 1, 1, 0});
  const ValueId conv = *b.node(Op::conv, "conv", {x, w, program::kNone},
                               {{"stride", Sizes{1, 1}},
                                {"padding", Sizes{0, 0}},
                                {"dilation", Sizes{1, 1}},
                                {"groups", int64_t{1}},
                                {"transposed", int64_t{0}},
                                {"output_padding", Sizes{0, 0}}});
  const ValueId sum = *b.node(Op::add, "sum", {conv, x});
  auto session = Session::create(model_of(*b.finish({conv, sum}))).value();
  const auto in = random_floats(2 * 24, 3);
  const TensorView view{{2, 2, 3, 4}, in.data()};
  const auto outputs = session->run({&view, 1}).value();
  for (size_t n = 0; n < 2; ++n)
    for (size_t c = 0; c < 2; ++c)
      for (size_t i = 0; i < 12; ++i) {
        const float swapped = in[n * 24 + (1 - c) * 12 + i];
        EXPECT_EQ(outputs[0].as()[n * 24 + c * 12 + i], swapped);
        EXPECT_EQ(outputs[1].as()[n * 24 + c * 12 + i], swapped + in[n * 24 + c * 12 + i]);
      }
}

TEST(Session, RunsLinearPoolAndSoftmaxNearTheirDefinitions) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 1, 4, 4});
  const auto weight = random_floats(3 * 4, 5), bias = random_floats(3, 6);
  const ValueId w = b.floats("w", {3, 4}, weight), c = b.floats("b", {3}, bias);
  auto pool = kPool;
  pool.erase("dilation");
  ValueId v = *b.node(Op::avg_pool, "pool", {x}, pool);
  v = *b.node(Op::reshape, "flatten", {v}, {{"shape", Shape{kBatch, 4}}});
  v = *b.node(Op::linear, "fc", {v, w, c});
  v = *b.node(Op::softmax, "softmax", {v}, {{"dim", int64_t{1}}});
  auto session = Session::create(model_of(*b.finish({v}))).value();
  const auto in = random_floats(16, 3);
  const TensorView view{{1, 1, 4, 4}, in.data()};
  const auto outputs = session->run({&view, 1}).value();
  double logits[3], total = 0;
  for (size_t n = 0; n < 3; ++n) {
    logits[n] = bias[n];
    for (size_t p = 0; p < 4; ++p) {
      const size_t at = p / 2 * 8 + p % 2 * 2;
      logits[n] += weight[n * 4 + p] * (double{in[at]} + in[at + 1] + in[at + 4] + in[at + 5]) / 4;
    }
    total += std::exp(logits[n]);
  }
  for (size_t n = 0; n < 3; ++n) EXPECT_NEAR(outputs[0].as()[n], std::exp(logits[n]) / total, 1e-5);
}

TEST(Session, EmitsAnEventForEachStep) {
  std::vector<std::string> names;
  auto session = Session::create(model_of(SmallNet().program()), {1,
                                                                  [&](const TraceEvent& e) {
                                                                    EXPECT_LE(e.begin_ns, e.end_ns);
                                                                    names.emplace_back(e.name);
                                                                  }})
                     .value();
  run(*session, random_floats(128, 1), 1);
  EXPECT_EQ(names, (std::vector<std::string>{"conv", "pool", "flatten", "fc", "run"})) << "relu runs within conv";
}

TEST(Session, RefusesWrongInputs) {
  auto session = Session::create(model_of(SmallNet().program())).value();
  const auto x = random_floats(128, 1);
  const auto error_of = [&](std::vector<TensorView> inputs) { return session->run(inputs).error().message; };
  EXPECT_EQ(error_of({}), "[session] 1 inputs, got 0");
  EXPECT_EQ(error_of({{{1, 2, 8, 7}, x.data()}}), "[session] input [batch, 2, 8, 8], got [1, 2, 8, 7] (input=x)");
  EXPECT_EQ(error_of({{{-1, 2, 8, 8}, x.data()}}), "[session] input [batch, 2, 8, 8], got [-1, 2, 8, 8] (input=x)");
  EXPECT_EQ(error_of({{{0, 2, 8, 0}, kNothing}}), "[session] input [batch, 2, 8, 8], got [0, 2, 8, 0] (input=x)");
  EXPECT_EQ(error_of({{{1, 128}, x.data()}}), "[session] input [batch, 2, 8, 8], got [1, 128] (input=x)");
  EXPECT_EQ(error_of({{{1, 2, 8, 8}, kNothing}}), "[session] float32 values, got a null pointer (input=x)");
  const std::vector<int64_t> indices(128);
  EXPECT_EQ(error_of({{{1, 2, 8, 8}, indices.data()}}), "[session] float32 values, got int64 ones (input=x)");
  EXPECT_EQ(error_of({{{int64_t{1} << 60, 2, 8, 8}, x.data()}}),
            "[session] batch from 0 to 1099511627776, got 1152921504606846976");
  EXPECT_EQ(error_of({{{int64_t{1} << 40, 2, 8, 8}, x.data()}}),
            "[plan] at most 2^46 bytes a value, got [1099511627776, 2, 8, 8] of float32 (value=x)");
  auto bad = x;
  bad[5] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_of({{{1, 2, 8, 8}, bad.data()}}), "[ternary_conv] finite input, got NaN or infinity (row=0) (node=conv)");
  EXPECT_TRUE(same_bits(run(*session, x, 1), SmallNet().oracle(x, 1))) << "usable after errors";
  EXPECT_EQ(Session::create(model_of(SmallNet().program()), {-1, {}}).error().message,
            "[session] 0 to 1024 threads, got -1");
}

TEST(Session, ABatchOfZeroGivesEmptyOutputs) {
  const SmallNet net;
  const auto x = random_floats(3 * 128, 7);
  for (int threads : {1, 3}) {
    auto session = Session::create(model_of(net.program()), {threads, {}}).value();
    for (const float* data : {static_cast<const float*>(nullptr), x.data()}) {
      EXPECT_TRUE(same_bits(run(*session, x, 3), net.oracle(x, 3)));
      const TensorView view{{0, 2, 8, 8}, data};
      const auto outputs = session->run({&view, 1});
      ASSERT_TRUE(outputs.ok()) << outputs.error().message;
      EXPECT_EQ((*outputs)[0].shape, (std::vector<int64_t>{0, 5}));
      ASSERT_NE(session->plan(), nullptr);
      EXPECT_EQ(session->plan()->sizes[0], 0);
    }
  }
}

// Tokens, attention, norms, groups, what moves values.
TEST(Session, ABatchOfZeroOfEveryKindOfNode) {
  auto session = Session::create(model_of(format::bit::test::wide_program()), {2, {}}).value();
  const TensorView none({0, 4}, DType::kInt64, nullptr);
  const auto outputs = session->run({&none, 1});
  ASSERT_TRUE(outputs.ok()) << outputs.error().message;
  EXPECT_EQ((*outputs)[0].shape, (std::vector<int64_t>{0, 5}));
  const TensorView one({1, 4}, DType::kInt64, nullptr);
  EXPECT_EQ(session->run({&one, 1}).error().message, "[session] int64 values, got a null pointer (input=tokens)");
}

// What has no batch is computed all the same; inputs agree on the batch.
TEST(Session, ABatchOfZeroBesideInputsOfFixedShape) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2}), z = b.input("z", {with_factor(kBatch, 2)}), c = b.input("c", {3});
  const ValueId y = *b.node(Op::relu, "y", {x}), w = *b.node(Op::relu, "w", {z}), d = *b.node(Op::relu, "d", {c});
  auto session = Session::create(model_of(*b.finish({y, w, d}))).value();
  const float fixed[] = {-1, 0, 5}, two[] = {1, 2};
  const TensorView empty[] = {{{0, 2}, kNothing}, {{0}, kNothing}, {{3}, fixed}};
  const auto outputs = session->run(empty).value();
  EXPECT_EQ(outputs[0].shape, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(outputs[1].shape, (std::vector<int64_t>{0}));
  EXPECT_EQ(std::vector<float>(outputs[2].as(), outputs[2].as() + 3), (std::vector<float>{0, 0, 5}));
  const TensorView mixed[] = {{{0, 2}, kNothing}, {{2}, two}, {{3}, fixed}};
  EXPECT_EQ(session->run(mixed).error().message,
            "[session] input [2*batch] at the batch 0 of those before it, got [2] (input=z)");
}

// An input has one type: others are refused, not converted.
TEST(Session, TheTypeOfAnInputIsTheProgramsOwn) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {3});
  auto session = Session::create(model_of(*b.finish({*b.node(Op::relu, "y", {x})}))).value();
  const float data[] = {1, -2, 3};
  const int64_t indices[] = {7, 8, 9};
  const TensorView view{{3}, data}, other{{3}, indices};
  EXPECT_EQ(session->run({&other, 1}).error().message, "[session] float32 values, got int64 ones (input=x)");
  const auto y = session->run({&view, 1}).value()[0];
  EXPECT_EQ(std::vector<float>(y.as(), y.as() + 3), (std::vector<float>{1, 0, 3}));
}

// Windows that lie in the padding as a whole, on every layer that has padding, thread count and batch.
TEST(Session, PaddingBeyondTheWindowEqualsTheOracle) {
  constexpr int64_t kSamples = 3, kChannels = 16, kFilters = 4, kDepth = 4 * kChannels;
  const auto t = random_int8(kFilters * kDepth, 1, -1, 1), t8 = random_int8(kFilters * kDepth, 2, -127, 127);
  const ternary::oracle::ConvShape shape{.batch = kSamples,
                                         .channels = kChannels,
                                         .input = {1, 3, 5},
                                         .filters = kFilters,
                                         .kernel = {1, 2, 2},
                                         .stride = {1, 1, 2},
                                         .padding = {0, 4, 3}};
  // Integers up to 127, which int8 holds exactly.
  const auto q = random_int8(kSamples * kChannels * 15, 3, -127, 127);
  std::vector<float> x(q.begin(), q.end());
  for (size_t n = 0; n < kSamples; ++n) x[n * kChannels * 15] = 127;
  const std::vector<int8_t> exact(x.begin(), x.end());
  auto attributes = kConv;
  attributes["stride"] = Sizes{1, 2};
  attributes["padding"] = Sizes{4, 3};
  for (Storage kind : {Storage::kTernary, Storage::kInt8, Storage::kPlain}) {
    const auto& weights = kind == Storage::kInt8 ? t8 : t;
    ProgramBuilder b;
    const ValueId in = b.input("x", {kBatch, kChannels, 3, 5});
    const std::vector<int64_t> sizes{kFilters, 2, 2, kChannels};
    auto own = attributes;
    if (kind == Storage::kPlain) own.erase("activation");
    const ValueId w = kind == Storage::kTernary ? b.ternary("w", sizes, packed(t, kFilters, kDepth), {1.0F})
                      : kind == Storage::kInt8  ? b.int8("w", sizes, t8, {1.0F})
                                                : b.floats("w", sizes, std::vector<float>(t.begin(), t.end()));
    const ValueId y = *b.node(kind == Storage::kPlain ? Op::conv : Op::ternary_conv, "conv", {in, w}, own);
    const auto model = model_of(*b.finish({y}));
    const auto sums = ternary::oracle::conv_sums(exact, weights, shape);
    const auto per_sample = static_cast<int64_t>(sums.size()) / kSamples, values = kChannels * 15;
    for (int threads : {1, 3})
      for (int64_t batch : {int64_t{1}, kSamples}) {
        auto session = Session::create(model, {threads, {}}).value();
        for (int64_t n = 0; n < kSamples; n += batch) {
          const TensorView view{{batch, kChannels, 3, 5}, x.data() + n * values};
          const auto found = session->run({&view, 1}).value()[0];
          EXPECT_EQ(found.shape, (std::vector<int64_t>{batch, kFilters, 10, 5}));
          for (int64_t i = 0; i < batch * per_sample; ++i)
            ASSERT_EQ(found.as()[i], static_cast<float>(sums[static_cast<size_t>(n * per_sample + i)])) << name(kind) << i;
        }
      }
  }
}

TEST(Plan, ValuesThatLiveTogetherDoNotOverlap) {
  const auto model = model_of(SmallNet().program());
  const Plan plan = make_plan(*model, program::at_batch(3), 2).value();
  const program::Program& p = model->program();
  int64_t total = 0;
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (plan.offsets[i] < 0) continue;
    EXPECT_EQ(plan.offsets[i] % 64, 0);
    total += elements(p.values[i].shape, program::at_batch(3)) * 4;
  }
  for (const PlannedStep& step : plan.steps) {
    const auto range = [&](ValueId id) {
      const int64_t begin = plan.offsets[static_cast<size_t>(id)];
      return std::pair(begin, begin + elements(p.value(id).shape, program::at_batch(3)) * 4);
    };
    const auto [x0, x1] = range(step.inputs[0]);
    const auto [y0, y1] = range(step.outputs[0]);
    EXPECT_TRUE(x1 <= y0 || y1 <= x0) << step.name();
  }
  EXPECT_LT(plan.scratch_offset, total) << "memory is shared";
}

// x is cut into a and b, which follow each other in it, and into columns, which do not. Both stay in x's memory, and so does what they are reshaped to,
// which is read when much else has been written.
TEST(Plan, LeavesWhatLiesInItsInputAsItIs) {
  constexpr int64_t kSide = 32, kHalf = kSide / 2 * kSide;
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, kSide, kSide});
  const auto reshaped = [&](const char* name, ValueId v, Shape shape) {
    return *b.node(Op::reshape, name, {v}, {{"shape", std::move(shape)}});
  };
  const ValueId y = *b.node(Op::relu, "y", {x});  // a result: what is left in inputs is left in results as well
  const std::vector<ValueId> halves =
      *b.nodes(Op::split, "halves", {y}, {{"dim", int64_t{1}}, {"sizes", Shape{kSide / 2, kSide / 2}}});
  const ValueId late = reshaped("late", halves[1], {kBatch, kHalf});
  const ValueId columns = *b.node(Op::slice, "columns", {y},
                                  {{"dim", int64_t{2}}, {"start", int64_t{0}}, {"length", Shape{16}}, {"step", int64_t{1}}});
  ValueId sum = reshaped("early", halves[0], {kBatch, kHalf});
  for (int i = 0; i < 4; ++i)
    sum = *b.node(Op::add, "sum" + std::to_string(i),
                  {sum, reshaped(("flat" + std::to_string(i)).c_str(), columns, {kBatch, kHalf})});
  sum = *b.node(Op::add, "last", {sum, late});
  const auto model = model_of(*b.finish({sum, late}));
  const program::Program& p = model->program();
  const Plan plan = make_plan(*model, program::at_batch(1), 1).value();
  const auto offset = [&](std::string_view name) {
    return plan.offsets[static_cast<size_t>(std::ranges::find(p.values, name, &program::Value::name) - p.values.begin())];
  };
  EXPECT_EQ(std::ranges::count_if(plan.steps, &PlannedStep::is_view), 7)
      << "two halves in a step, two of them flat, four times the columns";
  EXPECT_EQ(offset("late"), offset("y") + kHalf * 4);
  // At two samples the halves are in pieces.
  EXPECT_EQ(std::ranges::count_if(make_plan(*model, program::at_batch(2), 1).value().steps, &PlannedStep::is_view), 6);
  for (const int64_t batch : {1, 2}) {
    const auto values = random_floats(batch * kSide * kSide, 3);
    const auto session = Session::create(model, {2, {}}).value();
    const auto outputs = session->run(std::vector{TensorView{{batch, kSide, kSide}, values.data()}}).value();
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t i = 0; i < kHalf; ++i) {
        const auto at = [&](int64_t place) {
          return std::max(values[static_cast<size_t>(n * kSide * kSide + place)], 0.0F);
        };
        float expected = at(i);
        for (int j = 0; j < 4; ++j) expected += at(i / 16 * kSide + i % 16);
        expected += at(kHalf + i);
        ASSERT_EQ(outputs[0].as()[n * kHalf + i], expected) << n << " " << i;
        ASSERT_EQ(outputs[1].as()[n * kHalf + i], at(kHalf + i));
      }
  }
}

// By trying every moment and every value, from what the steps read and write.
TEST(Plan, CountsWhatLivesAtTheSameTime) {
  const auto model = model_of(SmallNet().program());
  const program::Program& p = model->program();
  const Plan plan = make_plan(*model, program::at_batch(3), 1).value();
  const auto steps = static_cast<int64_t>(plan.steps.size());
  const auto touches = [&](int64_t step, ValueId id) {
    const PlannedStep& s = plan.steps[static_cast<size_t>(step)];
    return std::count(s.inputs.begin(), s.inputs.end(), id) + std::count(s.outputs.begin(), s.outputs.end(), id) > 0;
  };
  std::vector<int64_t> expected;
  for (int64_t now = -1; now <= steps; ++now) {
    int64_t bytes = 0;
    for (size_t i = 0; i < p.values.size(); ++i) {
      if (p.values[i].kind == program::ValueKind::kConstant) continue;
      const auto id = static_cast<ValueId>(i);
      bool before = now == -1 && id == p.inputs[0], behind = now == steps && id == p.outputs[0].value;
      for (int64_t step = 0; step < steps; ++step) {
        before |= touches(step, id) && step <= now;
        behind |= touches(step, id) && step >= now;
      }
      if (id == p.inputs[0]) before = true;
      if (id == p.outputs[0].value && before) behind = true;
      if (before && behind) bytes += round_up(elements(p.values[i].shape, plan.sizes) * 4, 64);
    }
    expected.push_back(bytes);
  }
  EXPECT_EQ(live_bytes(p, plan), expected);
  EXPECT_EQ(*std::max_element(expected.begin(), expected.end()), 3 * (2 + 6) * 64 * 4) << "the convolution's two images";
  EXPECT_LE(*std::max_element(expected.begin(), expected.end()), plan.scratch_offset);
}

TEST(Model, CountsItsBytes) {
  const auto model = model_of(SmallNet().program(), "ternary_gemm:reference");
  // 2 bits a weight in whole bytes a row, scales and biases as float32.
  EXPECT_EQ(model->weight_bytes(), 6 * 5 + 5 * 24 + 6 * 4 + 4 + 5 * 4);
  EXPECT_EQ(model->float32_weight_bytes(), (6 * 18 + 5 * 96 + 5) * 4);
  EXPECT_TRUE(model->program().constants.empty());
}

TEST(Model, NamesThePolicyThatLeavesNoKernel) {
  const auto model = Model::create(SmallNet().program(), {this_machine(), {"ternary_gemm:none"}});
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code, ErrorCode::kNoKernel);
}

}  // namespace
}  // namespace bitlab::runtime
