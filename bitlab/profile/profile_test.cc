#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "bitlab/base/internal/json.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/profile/internal/roof_loops.h"
#include "bitlab/profile/profiler.h"

namespace bitlab::profile {
namespace {

using program::kBatch;
using program::kNone;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;
using runtime::Model;
using runtime::Session;
using runtime::TensorView;

const char* const kGolden = BITLAB_SOURCE_DIR "/tests/golden/lenet5.bit";

// MACs of the program's last node.
int64_t macs_of(const ProgramBuilder& b, const program::SymbolSizes& sizes = program::at_batch(2)) {
  return macs(b.peek(), b.peek().nodes.back(), sizes);
}

program::Attributes window(const Sizes& stride, const Sizes& padding, int64_t groups = 1, bool transposed = false) {
  const Sizes ones(stride.size(), 1), zeros(stride.size(), 0);
  return {{"stride", stride},        {"padding", padding}, {"dilation", ones}, {"transposed", int64_t{transposed}},
          {"output_padding", zeros}, {"groups", groups}};
}

// --- cost

// LeNet-5 of tests/golden, by its published shapes: the layers' output sizes times the weights that each output meets.
TEST(Cost, OfLenetIsThatOfItsLayers) {
  const program::Program p = format::bit::load(kGolden).value();
  std::map<std::string, int64_t> found;
  for (const program::Node& node : p.nodes)
    if (const int64_t count = macs(p, node, program::at_batch(3)); count != 0) found[node.name] = count;
  EXPECT_EQ(found, (std::map<std::string, int64_t>{{"conv1", int64_t{3} * 20 * 24 * 24 * 1 * 5 * 5},
                                                   {"conv2", int64_t{3} * 50 * 8 * 8 * 20 * 5 * 5},
                                                   {"fc1", int64_t{3} * 500 * 800},
                                                   {"fc2", int64_t{3} * 10 * 500}}));
}

// The taps that a convolution meets, one by one, where padding counts as well.
TEST(Cost, OfConvolutionsWithGroupsStridesAndTransposed) {
  const auto floats = [](size_t count) { return std::vector<float>(count, 1); };
  {
    ProgramBuilder b;  // 7 x 5 pixels, 3 x 3 windows, stride 2 and 1, padding 1: 4 x 5 outputs
    const ValueId x = b.input("x", {kBatch, 6, 7, 5}), w = b.floats("w", {4, 3, 3, 3}, floats(4 * 9 * 3));
    ASSERT_TRUE(b.node(Op::conv, "conv", {x, w}, window({2, 1}, {1, 1}, 2)).ok());
    EXPECT_EQ(macs_of(b), 2 * (4 * 5) * 4 * (9 * 6 / 2));
  }
  {
    ProgramBuilder b;  // depthwise
    const ValueId x = b.input("x", {kBatch, 6, 8}), w = b.floats("w", {6, 3, 1}, floats(18));
    ASSERT_TRUE(b.node(Op::conv, "conv", {x, w}, window({1}, {1}, 6)).ok());
    EXPECT_EQ(macs_of(b), 2 * 8 * 6 * 3);
  }
  {
    ProgramBuilder b;  // transposed: each of 4 x 4 pixels of 6 channels goes to 2 x 3 places of each filter of its group
    const ValueId x = b.input("x", {kBatch, 6, 4, 4}), w = b.floats("w", {10, 2, 3, 3}, floats(10 * 6 * 3));
    ASSERT_TRUE(b.node(Op::conv, "conv", {x, w}, window({2, 2}, {0, 0}, 2, true)).ok());
    EXPECT_EQ(macs_of(b), 2 * (4 * 4 * 6) * (2 * 3) * (10 / 2));
  }
}

TEST(Cost, OfMatmulAndAttentionCountsPairs) {
  ProgramBuilder b;
  const auto tokens = b.symbol("tokens", 1, 64);
  const ValueId q = b.input("q", {kBatch, 4, tokens, 8}), k = b.input("k", {kBatch, 2, tokens, 8}),
                v = b.input("v", {kBatch, 2, tokens, 3}), w = b.input("w", {kBatch, 4, 8, 5});
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 7;
  ASSERT_TRUE(b.node(Op::matmul, "matmul", {q, w}).ok());
  EXPECT_EQ(macs_of(b, sizes), 2 * 4 * 7 * 8 * 5);
  for (const bool causal : {false, true}) {
    ASSERT_TRUE(
        b.node(Op::attention, causal ? "causal" : "full", {q, k, v}, {{"causal", int64_t{causal}}, {"scale", 0.5}}).ok());
    int64_t pairs = 0;
    for (int64_t i = 0; i < 7; ++i)
      for (int64_t j = 0; j < 7; ++j) pairs += !causal || j <= i ? 1 : 0;
    EXPECT_EQ(macs_of(b, sizes), 2 * 4 * pairs * (8 + 3)) << causal;
  }
}

TEST(Cost, OfAttentionWithStatesCountsTheContext) {
  const program::Program p = format::bit::test::decoder_program();
  program::SymbolSizes sizes = program::at_batch(1);
  const auto symbol = [&](const std::string& name) {
    return static_cast<size_t>(
        std::find_if(p.symbols.begin(), p.symbols.end(), [&](const auto& s) { return s.name == name; }) - p.symbols.begin());
  };
  sizes[symbol("tokens")] = 3;
  sizes[symbol("context")] = 9;  // six tokens before
  for (const program::Node& node : p.nodes)
    if (node.op == Op::attention) {
      EXPECT_EQ(macs(p, node, sizes), 2 * (7 + 8 + 9) * (4 + 4));
    }
}

// Each of 7 tokens of 2 samples multiplies a hidden state of 3 by the weights of 4 gates of 3.
TEST(Cost, OfRecurrentLayersIsThatOfTheirHiddenStates) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 7, 12}),
                w = b.ternary("w", {12, 3}, std::vector<uint8_t>(12, 0b00010101), {.scale = {1}});
  ASSERT_TRUE(b.nodes(Op::ternary_recurrent, "lstm", {x, w},
                      {{"cell", std::string("lstm")}, {"activation", std::string("int8")}, {"reverse", int64_t{0}}})
                  .ok());
  EXPECT_EQ(macs_of(b), 2 * 7 * (4 * 3) * 3);
  EXPECT_EQ(arithmetic(b.peek().nodes.back()), Arithmetic::kInt8);
}

TEST(Cost, SaturatesWhereSizesAreHuge) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 4});
  ASSERT_TRUE(b.node(Op::linear, "fc", {x, b.floats("w", {4, 4}, std::vector<float>(16, 1))}).ok());
  EXPECT_EQ(macs_of(b, program::at_batch(int64_t{1} << 61)), program::kManyElements);
}

TEST(Cost, BytesAreInputsWeightsAndOutputsOnce) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 6});
  ValueId v = b.node(Op::linear, "fc", {x, b.floats("w", {4, 6}, std::vector<float>(24, 1))}).value();
  v = b.node(Op::add, "twice", {v, v}).value();
  const auto model = Model::create(b.finish({v}).value()).value();
  const runtime::Plan plan = runtime::make_plan(*model, program::at_batch(5), 1).value();
  ASSERT_EQ(plan.steps.size(), 2U);
  const StepCost fc = cost(*model, plan, plan.steps[0], plan.sizes), twice = cost(*model, plan, plan.steps[1], plan.sizes);
  EXPECT_EQ(fc.bytes, 4 * (5 * 6 + 5 * 4) + static_cast<int64_t>(model->weight_bytes()));
  EXPECT_EQ(fc.arithmetic, Arithmetic::kFloat32);
  EXPECT_DOUBLE_EQ(fc.intensity(), 2.0 * (5 * 4 * 6) / static_cast<double>(fc.bytes));
  EXPECT_EQ(twice.bytes, 4 * 5 * (4 + 4)) << "one input, though read twice";
  EXPECT_EQ(twice.macs, 0);
}

TEST(Cost, OfATableAreTheRowsThatAreLookedUp) {
  ProgramBuilder b;
  const ValueId ids = b.input("ids", {kBatch}, program::DType::kInt64);
  const ValueId v = b.node(Op::embedding, "embed", {ids, b.floats("table", {100, 8}, std::vector<float>(800, 1))}).value();
  const auto model = Model::create(b.finish({v}).value()).value();
  const runtime::Plan plan = runtime::make_plan(*model, program::at_batch(5), 1).value();
  EXPECT_EQ(cost(*model, plan, plan.steps[0], plan.sizes).bytes, 5 * 8 + 5 * 8 * 4 + 5 * 8 * 4);
}

// --- memory

TEST(Memory, IsWhatThePlanSays) {
  const auto model = Model::load(kGolden).value();
  const runtime::Plan plan = runtime::make_plan(*model, program::at_batch(3), 2).value();
  const MemoryTracker memory(*model, plan);
  EXPECT_EQ(memory.arena_bytes, plan.arena_bytes);
  EXPECT_EQ(memory.planned_bytes + memory.scratch_bytes, plan.arena_bytes);
  EXPECT_GE(memory.planned_ratio(), 1);
  EXPECT_LE(memory.planned_bytes, memory.all_value_bytes);
  int64_t most = 0, end = 0;
  for (size_t step = 0; step < memory.steps.size(); ++step) {
    int64_t live = 0;  // brute force, from the values
    for (const PlacedValue& value : memory.values)
      if (value.first <= static_cast<int64_t>(step) && static_cast<int64_t>(step) <= value.last) live += value.bytes;
    EXPECT_EQ(memory.steps[step].live_bytes, live);
    most = std::max(most, live);
  }
  for (const PlacedValue& value : memory.values) end = std::max(end, value.offset + value.bytes);
  EXPECT_EQ(memory.lower_bound_bytes, most) << "neither the inputs nor the outputs alone are more";
  EXPECT_EQ(memory.planned_bytes, end);
  EXPECT_NE(memory.table().find("conv1"), std::string::npos);
}

// --- roofs

TEST(Roofs, EveryLoopOfThisMachineRuns) {
  std::set<RoofKind> kinds;
  const std::vector<uint8_t> data(4096 + 8192, 1);
  for (const RoofLoop& loop : roof_loops()) {
    EXPECT_EQ(loop.products == 0, loop.kind == RoofKind::kRead) << loop.name;
    if (loop.run == nullptr || !loop.needs.minus(this_machine().features).empty()) continue;
    loop.run(loop.kind == RoofKind::kRead ? data.data() : nullptr, 256);
    kinds.insert(loop.kind);
  }
  EXPECT_EQ(kinds.size(), 3U);
  EXPECT_STREQ(fastest_loop(RoofKind::kInt8, {.cpu = "", .features = {}}).name, "int16_portable");
}

TEST(Roofs, BoundAStepByProductsOrByBytes) {
  const Roofs roofs{.threads = 1,
                    .int8_macs_per_s = 8e9,
                    .float32_macs_per_s = 1e9,
                    .memory = {{"L1", 1000, 4e9}, {"memory", int64_t{1} << 62, 1e9}}};
  EXPECT_DOUBLE_EQ(roofs.seconds({.macs = 8'000'000, .bytes = 1000, .arithmetic = Arithmetic::kInt8}), 1e-3);
  EXPECT_DOUBLE_EQ(roofs.seconds({.macs = 8'000'000, .bytes = 1000, .arithmetic = Arithmetic::kFloat32}), 8e-3);
  EXPECT_DOUBLE_EQ(roofs.seconds({.macs = 0, .bytes = 1000}), 0.25e-6);
  EXPECT_DOUBLE_EQ(roofs.seconds({.macs = 0, .bytes = 1001}), 1.001e-6) << "more than the first level holds";
}

// --- profiles

std::vector<float> pictures(int64_t batch) {
  std::vector<float> x(static_cast<size_t>(batch * 28 * 28));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 29) / 7 - 2;
  return x;
}

class ProfileOfLenet : public testing::Test {
 protected:
  static constexpr int64_t kRuns = 4, kSamples = 3;

  ProfileOfLenet() : x(pictures(kSamples)), view({kSamples, 1, 28, 28}, x.data()) {}
  Profile take(bool roofs = false) {
    Profile taken = profile(model, {&view, 1}, {.threads = 1, .runs = kRuns, .roofs = roofs}).value();
    taken.model = "a</script> & \"b\".bit";
    return taken;
  }

  std::shared_ptr<const Model> model = Model::load(kGolden).value();
  std::vector<float> x;
  TensorView view;
};

TEST_F(ProfileOfLenet, HasEachStepOfEachRunWithinTheRun) {
  const Profile p = take();
  EXPECT_EQ(p.runs.calls, kRuns);
  double steps = 0, share = 0;
  size_t nodes = 0;
  for (const StepProfile& step : p.steps) {
    EXPECT_EQ(step.times.calls, kRuns) << step.name;
    EXPECT_LE(step.times.least_seconds, step.times.median_seconds);
    EXPECT_EQ(step.roof_share, 0);
    steps += step.times.seconds;
    share += step.share;
    nodes += step.nodes.size();
  }
  EXPECT_EQ(nodes, model->program().nodes.size());
  EXPECT_LE(steps, p.runs.seconds);
  EXPECT_NEAR(share, 1, 1e-9);
  EXPECT_EQ(p.steps[0].output, "[3, 20, 24, 24]");
  EXPECT_EQ(p.total().macs, 3 * (20 * 24 * 24 * 25 + 50 * 64 * 500 + 400000 + 5000));
}

TEST_F(ProfileOfLenet, ChangesNoBit) {
  BitProfiler profiler;
  auto plain = Session::create(model).value();
  auto profiled = Session::create(model, {.threads = 1, .trace = profiler.sink()}).value();
  const TensorView a = plain->run({&view, 1}).value()[0], b = profiled->run({&view, 1}).value()[0];
  EXPECT_EQ(std::memcmp(a.data, b.data, kSamples * 10 * sizeof(float)), 0);
  EXPECT_EQ(profile(profiler, *plain).value().runs.calls, 1);
}

TEST_F(ProfileOfLenet, AsJson) {
  const Profile p = take(true);
  const Json json = parse_json(p.json(), "test").value();
  ASSERT_EQ(json["nodes"].size(), p.steps.size());
  for (size_t i = 0; i < p.steps.size(); ++i) {
    EXPECT_EQ(json["nodes"][i]["node"], p.steps[i].name);
    EXPECT_EQ(json["nodes"][i]["calls"], kRuns);
    EXPECT_GT(json["nodes"][i]["roof_share"].get<double>(), 0);
  }
  EXPECT_EQ(json["sizes"]["batch"], kSamples);
  EXPECT_EQ(json["memory"]["arena_bytes"], p.memory.arena_bytes);
  EXPECT_GT(json["roofs"]["int8_giga_macs_per_s"].get<double>(), 0);
  EXPECT_EQ(json["roofs"]["memory"].back()["level"], "memory");
}

TEST_F(ProfileOfLenet, AsAChromeTraceHasAnEventForEachStepAndRun) {
  const Profile p = take();
  const Json events = parse_json(p.chrome_trace(), "test").value()["traceEvents"];
  std::map<std::string, int64_t> complete;
  int64_t counters = 0;
  double run_end = 0;
  for (const Json& event : events) {
    if (event["ph"] == "C") ++counters;
    if (event["ph"] != "X") continue;
    ++complete[event["name"].get<std::string>()];
    EXPECT_GE(event["ts"].get<double>(), 0);
    EXPECT_GE(event["dur"].get<double>(), 0);
    if (event["cat"] == "run") run_end = event["ts"].get<double>() + event["dur"].get<double>();
  }
  for (const StepProfile& step : p.steps) EXPECT_EQ(complete[step.name], kRuns) << step.name;
  EXPECT_EQ(complete["run"], kRuns);
  EXPECT_EQ(complete.size(), p.steps.size() + 1);
  EXPECT_EQ(counters, kRuns * static_cast<int64_t>(p.steps.size()));
  EXPECT_GT(run_end, 0);
  EXPECT_EQ(parse_json(chrome_trace(p.events), "test").value()["traceEvents"].size(), p.events.size());
  EXPECT_EQ(parse_json(chrome_trace({}), "test").value()["traceEvents"].size(), 0U);
}

TEST_F(ProfileOfLenet, AsAPageStandsAlone) {
  const std::string page = take(true).html();
  for (const char* part : {"<!doctype html>", "id=\"roofline\"", "id=\"steps\"", "id=\"memory\"",
                           "a&lt;/script&gt; &amp; &quot;b&quot;.bit", "conv1", "int8", "</html>"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  for (const char* part : {"http:", "https:", "src=", "@import", "url(", "nan", "inf\""})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
  size_t scripts = 0;  // the name of the model must not end one
  for (size_t at = 0; (at = page.find("</script>", at)) != std::string::npos; ++at) ++scripts;
  EXPECT_EQ(scripts, 2U);
  const size_t begin = page.find("id=\"profile\">") + 13;
  EXPECT_TRUE(parse_json(std::string_view(page).substr(begin, page.find("</script>") - begin), "test").ok());
}

TEST_F(ProfileOfLenet, AsATableNamesTheStepThatTakesLongestFirst) {
  const Profile p = take(true);
  const auto slowest = std::max_element(p.steps.begin(), p.steps.end(),
                                        [](const StepProfile& a, const StepProfile& b) { return a.share < b.share; });
  const std::string table = p.table();
  EXPECT_NE(table.find("roofs "), std::string::npos);
  const size_t first = table.find('\n', table.find("---")) + 1;
  EXPECT_EQ(table.compare(first, slowest->name.size(), slowest->name), 0) << table;
}

TEST_F(ProfileOfLenet, RefusesWhatCannotBeMeasured) {
  EXPECT_EQ(profile(model, {&view, 1}, {.runs = 0}).error().message,
            "[profile] one run and more after none and more, got 0 after 3");
  EXPECT_EQ(profile(model, std::span<const TensorView>(), {}).error().message, "[session] 1 inputs, got 0");
  EXPECT_EQ(profile(BitProfiler(), *Session::create(model).value()).error().message,
            "[profile] a session that has run, got one that has not");
}

TEST(Profile, OfADecoderBeginsEachRunWithEmptyStates) {
  const auto model = Model::create(format::bit::test::decoder_program()).value();
  const std::vector<int64_t> ids{1, 2, 3};
  const std::vector<uint16_t> gain(8, 0x3C00);
  const TensorView inputs[] = {{{1, 3}, ids.data()}, {{8}, program::DType::kFloat16, gain.data()}};
  const Profile p = profile(model, inputs, {.runs = 2, .roofs = false}).value();
  const auto attend = std::find_if(p.steps.begin(), p.steps.end(), [](const auto& step) { return step.name == "attend"; });
  ASSERT_NE(attend, p.steps.end());
  EXPECT_EQ(attend->cost.macs, 2 * (1 + 2 + 3) * (4 + 4));
  EXPECT_GT(p.memory.state_bytes, 0);
}

}  // namespace
}  // namespace bitlab::profile
