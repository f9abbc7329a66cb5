// Steps of several nodes compute what the nodes compute one by one, bit by bit; what cannot run within a step does not.
#include <algorithm>

#include <gtest/gtest.h>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/plan.h"
#include "bitlab/runtime/session.h"
#include "bitlab/runtime/test_support.h"

namespace bitlab::runtime {
namespace {

using kernels::test::random_floats;
using program::kBatch;
using program::Op;
using program::ProgramBuilder;
using program::Sizes;
using program::ValueId;

constexpr int64_t kPictures = 3, kFusedChannels = 5, kFusedFilters = 20, kFusedSide = 6;

enum class Head { kTernary, kWeightOnly, kInt8, kDepthwise, kFloat };
constexpr Head kFusedHeads[] = {Head::kTernary, Head::kWeightOnly, Head::kInt8, Head::kDepthwise, Head::kFloat};

// Two convolutions of one image, and what follows them. With `shown`, every value is an output, too, so that no node can run within another's step.
struct FusedNet {
  ProgramBuilder b;
  std::vector<ValueId> values;

  ValueId add(Op op, const std::string& name, std::vector<ValueId> inputs, program::Attributes attributes = {}) {
    values.push_back(*b.node(op, name, std::move(inputs), std::move(attributes)));
    return values.back();
  }
  // step: of static activations; 0: dynamic ones.
  ValueId conv(Head head, const std::string& name, ValueId x, uint32_t seed, float step = 0,
               int64_t channels = kFusedChannels) {
    const int64_t groups = head == Head::kDepthwise ? kFusedFilters : 1, depth = 9 * (groups == 1 ? channels : 1);
    program::Attributes attributes{{"stride", Sizes{1, 1}},    {"padding", Sizes{1, 1}},        {"dilation", Sizes{1, 1}},
                                   {"transposed", int64_t{0}}, {"output_padding", Sizes{0, 0}}, {"groups", groups}};
    const std::vector<int64_t> shape{kFusedFilters, 3, 3, depth / 9};
    if (head == Head::kFloat)
      return add(Op::conv, name, {x, b.floats(name + ".weight", shape, random_floats(kFusedFilters * depth, seed))},
                 attributes);
    attributes["activation"] = std::string(head == Head::kWeightOnly ? "none" : "int8");
    const auto t = kernels::test::random_int8(kFusedFilters * depth, seed, -1, 1);
    const auto scale = random_floats(kFusedFilters, seed + 1, 0.2F);
    const ValueId weight = head == Head::kInt8
                               ? b.int8(name + ".weight", shape, t, scale)
                               : b.ternary(name + ".weight", shape, kernels::test::packed(t, kFusedFilters, depth), scale);
    if (step == 0) return add(Op::ternary_conv, name, {x, weight}, attributes);
    attributes["activation"] = std::string("int8_static");
    return add(Op::ternary_conv, name, {x, weight, program::kNone, b.floats(name + ".step", {1}, {step})}, attributes);
  }
  ValueId norm(const std::string& name, ValueId x, uint32_t seed) {
    return add(Op::batch_norm, name,
               {x, b.floats(name + ".scale", {kFusedFilters}, random_floats(kFusedFilters, seed)),
                b.floats(name + ".shift", {kFusedFilters}, random_floats(kFusedFilters, seed + 1))});
  }
};

FusedNet residual(Head head) {
  FusedNet net;
  const int64_t channels = head == Head::kDepthwise ? kFusedFilters : kFusedChannels;
  const ValueId x = net.b.input("x", {kBatch, channels, kFusedSide, kFusedSide});
  const ValueId first = net.norm("norm1", net.conv(head, "conv1", x, 1), 11);
  const ValueId second = net.norm("norm2", net.conv(head, "conv2", x, 2), 12);
  const ValueId sum = net.add(Op::add, "sum", {first, second});  // joins conv2, whose other operand is there
  const ValueId active = net.add(Op::silu, "silu", {sum});
  const ValueId least = net.add(Op::maximum, "least", {active, net.b.floats("zero", {1}, {-0.1F})});
  const ValueId gated =
      net.add(Op::mul, "gated", {net.add(Op::sigmoid, "sigmoid", {first}), least});  // `first` has two readers
  net.add(Op::sub, "last", {net.b.floats("one", {1}, {1}), gated});  // a constant minus it: no function of what is written
  return net;
}

// What kernels compute on their sums themselves: a norm, a residual, then ReLU, or a clamp, of which NaN and -0 come out as of the functions; and what
// is left to the chain behind it.
FusedNet epilogue(Head head, int tail) {
  FusedNet net;
  const int64_t channels = head == Head::kDepthwise ? kFusedFilters : kFusedChannels;
  const ValueId x = net.b.input("x", {kBatch, channels, kFusedSide, kFusedSide});
  const ValueId first = net.conv(head, "conv1", x, 1);
  ValueId y = net.norm("norm", net.conv(head, "conv2", x, 2), 12);
  const auto constant = [&](const std::string& name, float value) { return net.b.floats(name, {1}, {value}); };
  if (tail % 2 == 0) y = net.add(Op::add, "sum", {y, first});
  if (tail == 0 || tail == 1) y = net.add(Op::relu, "relu", {y});
  if (tail >= 1) y = net.add(Op::maximum, "least", {y, constant("zero", tail == 3 ? -0.0F : 0.0F)});
  if (tail >= 2) y = net.add(Op::minimum, "most", {y, constant("six", 0.3F)});
  if (tail == 4)
    net.add(Op::minimum, "again", {net.add(Op::maximum, "other", {y, constant("low", 0.1F)}), constant("high", 0.2F)});
  return net;
}

std::vector<float> result_of(const program::Program& p, const std::vector<float>& x, int64_t channels, int threads,
                             size_t* steps) {
  auto session = Session::create(Model::create(p).value(), {threads, {}}).value();
  const TensorView view{{kPictures, channels, kFusedSide, kFusedSide}, x.data()};
  const auto outputs = session->run({&view, 1}).value();
  if (steps != nullptr) *steps = session->plan()->steps.size();
  return test::floats_of(outputs.back());
}

TEST(Fusion, HasTheBitsOfOneNodeAfterTheOther) {
  for (const Head head : kFusedHeads) {
    const int64_t channels = head == Head::kDepthwise ? kFusedFilters : kFusedChannels;
    const auto x = random_floats(kPictures * channels * kFusedSide * kFusedSide, 5);
    FusedNet fused = residual(head), shown = residual(head);
    const program::Program p = *fused.b.finish({fused.values.back()}), q = *shown.b.finish(shown.values);
    for (int threads : {1, 3}) {
      size_t steps = 0, all = 0;
      const auto found = result_of(p, x, channels, threads, &steps), expected = result_of(q, x, channels, threads, &all);
      EXPECT_TRUE(kernels::test::same_bits(found, expected)) << static_cast<int>(head) << " " << threads;
      EXPECT_EQ(all, q.nodes.size());
      // conv1 with its norm; conv2 with its norm, the sum, silu and the maximum; sigmoid with the product; the subtraction.
      EXPECT_EQ(steps, 4U) << static_cast<int>(head);
    }
  }
}

TEST(Fusion, InAKernelsEpilogueHasTheBitsOfFunctions) {
  for (const Head head : kFusedHeads)
    for (int tail = 0; tail < 5; ++tail) {
      const int64_t channels = head == Head::kDepthwise ? kFusedFilters : kFusedChannels;
      const auto x = random_floats(kPictures * channels * kFusedSide * kFusedSide, 6);
      FusedNet fused = epilogue(head, tail), shown = epilogue(head, tail);
      const program::Program p = *fused.b.finish({fused.values.back()}), q = *shown.b.finish(shown.values);
      for (int threads : {1, 3})
        EXPECT_TRUE(kernels::test::same_bits(result_of(p, x, channels, threads, nullptr),
                                             result_of(q, x, channels, threads, nullptr)))
            << static_cast<int>(head) << " " << tail << " " << threads;
    }
}

// Two convolutions in a row and what may come between them. How many values stay int8 where all of their steps are static.
struct Chained {
  Head first, second;
  int tail;    // of epilogue(), between them, without its sum: 1, 3 or 5 (none)
  float step;  // of the second one
  bool adds;   // a sum follows the first one
  bool third;  // another one reads the same value, by another step
  size_t narrow;
};

FusedNet chained(const Chained& c, float scale = 1) {
  FusedNet net;
  const int64_t channels = c.first == Head::kDepthwise ? kFusedFilters : kFusedChannels;
  const ValueId x = net.b.input("x", {kBatch, channels, kFusedSide, kFusedSide});
  const ValueId other = net.conv(c.first, "other", x, 5, 0.05F);
  ValueId y = net.norm("norm", net.conv(c.first, "conv1", x, 1, 0.05F * scale), 12);
  const auto constant = [&](const std::string& name, float value) { return net.b.floats(name, {1}, {value}); };
  if (c.adds) y = net.add(Op::add, "sum", {y, other});
  if (c.tail == 1) y = net.add(Op::relu, "relu", {y});
  if (c.tail == 3)
    y = net.add(Op::minimum, "most", {net.add(Op::maximum, "least", {y, constant("zero", 0)}), constant("six", 6)});
  if (c.tail == 7) y = net.add(Op::sigmoid, "sigmoid", {y});
  const ValueId last = net.conv(c.second, "conv2", y, 2, c.step, kFusedFilters);
  net.add(Op::sub, "difference", {last, c.third ? net.conv(c.second, "conv3", y, 3, 0.02F, kFusedFilters) : other});
  return net;
}

TEST(Requantization, InRegistersHasTheBitsOfAWalkOfItsOwn) {
  std::vector<Chained> cases;
  for (const Head first : {Head::kTernary, Head::kInt8, Head::kDepthwise})
    for (const Head second : {Head::kTernary, Head::kInt8, Head::kDepthwise})
      for (const int tail : {1, 3, 5}) cases.push_back({first, second, tail, 0.04F, false, false, 1});
  cases.push_back({Head::kTernary, Head::kTernary, 7, 0.04F, false, false, 0});  // a function that registers do not take
  cases.push_back({Head::kTernary, Head::kTernary, 1, 0.04F, true, false, 0});   // a sum, which may hold an infinity
  cases.push_back({Head::kTernary, Head::kTernary, 1, 0.04F, false, true, 0});   // two steps
  cases.push_back({Head::kTernary, Head::kTernary, 1, 0, false, false, 0});      // a dynamic one
  cases.push_back({Head::kTernary, Head::kWeightOnly, 1, 0, false, false, 0});
  cases.push_back({Head::kTernary, Head::kFloat, 1, 0, false, false, 0});
  for (const Chained& c : cases) {
    const int64_t channels = c.first == Head::kDepthwise ? kFusedFilters : kFusedChannels;
    const auto x = random_floats(kPictures * channels * kFusedSide * kFusedSide, 7, 20);  // beyond both ends of the range
    FusedNet narrow = chained(c), shown = chained(c);
    const program::Program p = *narrow.b.finish({narrow.values.back()}), q = *shown.b.finish(shown.values);
    for (const int threads : {1, 3})
      EXPECT_TRUE(
          kernels::test::same_bits(result_of(p, x, channels, threads, nullptr), result_of(q, x, channels, threads, nullptr)))
          << &c - cases.data() << " " << threads;
    const auto model = Model::create(p).value();
    const Plan plan = make_plan(*model, program::at_batch(kPictures), 1).value();
    const auto is_narrow = [](const Narrow& n) { return static_cast<bool>(n); };
    EXPECT_EQ(static_cast<size_t>(std::ranges::count_if(plan.narrow, is_narrow)), c.narrow) << &c - cases.data();
  }
}

// A walk of its own refuses an infinity, so that values that can hold one stay float32.
TEST(Requantization, LeavesWhatMayBeInfinite) {
  const Chained c{Head::kTernary, Head::kTernary, 1, 0.04F, false, false, 0};
  FusedNet net = chained(c, 1e37F);
  const auto model = Model::create(*net.b.finish({net.values.back()})).value();
  const Plan plan = make_plan(*model, program::at_batch(1), 1).value();
  EXPECT_TRUE(std::ranges::none_of(plan.narrow, [](const Narrow& n) { return static_cast<bool>(n); }));
}

TEST(Fusion, OfRowsIsOneWalk) {
  const auto x = random_floats(kPictures * 7, 5);
  for (const bool shown : {false, true}) {
    FusedNet net;
    const ValueId in = net.b.input("x", {kBatch, 7});
    ValueId y = in;
    for (int i = 0; i < 20; ++i)  // more functions than one step has
      y = net.add(i % 2 == 0 ? Op::add : Op::tanh, std::to_string(i),
                  i % 2 == 0 ? std::vector<ValueId>{y, in} : std::vector<ValueId>{y});
    auto session = test::session_of(*(shown ? net.b.finish(net.values) : net.b.finish({y})));
    const TensorView view{{kPictures, 7}, x.data()};
    const auto found = test::floats_of(session->run({&view, 1}).value().back());
    std::vector<float> expected = x;
    const auto* row = *kernels::select(kernels::elementwise_kernels(), this_machine(), {});
    const auto count = static_cast<int64_t>(x.size());
    for (int i = 0; i < 20; ++i)
      row->run({i % 2 == 0 ? kernels::Elementwise::add : kernels::Elementwise::tanh, expected.data(), x.data(), count,
                expected.data()},
               0, count);
    EXPECT_TRUE(kernels::test::same_bits(found, expected)) << shown;
    EXPECT_EQ(session->plan()->steps.size(), shown ? 20U : 2U);
  }
}

}  // namespace
}  // namespace bitlab::runtime
