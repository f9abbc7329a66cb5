// What steps find in their inputs on a device: no kernel copies it there, and nothing is copied over twice.
#include <algorithm>
#include <array>
#include <random>

#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/device_test_support.h"
#include "bitlab/runtime/internal/device_run.h"

namespace bitlab::runtime {
namespace {

using kernels::test::random_floats;
using Range = DevicePlan::Range;

// A program of rows of 16 floats, 64 bytes each, so that all rows are where kernels may begin to read.
class Rows {
 public:
  static constexpr int64_t kWidth = 16;

  ValueId input(Dim rows) { return b_.input("x", {std::move(rows), kWidth}); }
  ValueId node(Op op, std::vector<ValueId> inputs, program::Attributes attributes = {}) {
    return *b_.node(op, name(), std::move(inputs), std::move(attributes));
  }
  std::vector<ValueId> split(ValueId x, Shape rows) {
    return *b_.nodes(Op::split, name(), {x}, {{"dim", int64_t{0}}, {"sizes", std::move(rows)}});
  }
  ValueId slice(ValueId x, int64_t start, Dim length) {
    return node(Op::slice, {x},
                {{"dim", int64_t{0}}, {"start", start}, {"length", Shape{std::move(length)}}, {"step", int64_t{1}}});
  }
  ValueId reshape(ValueId x, Shape shape) { return node(Op::reshape, {x}, {{"shape", std::move(shape)}}); }
  ValueId permute(ValueId x, Sizes dims) { return node(Op::permute, {x}, {{"dims", std::move(dims)}}); }
  const Dim& rows_of(ValueId x) const { return b_.peek().value(x).shape[0]; }
  Dim symbol(std::string_view name, int64_t min) { return b_.symbol(name, min, 1 << 20); }
  Program finish(const std::vector<ValueId>& outputs) { return *b_.finish(outputs); }

 private:
  std::string name() { return fmt::format("n{}", ++nodes_); }
  ProgramBuilder b_;
  int nodes_ = 0;
};

// Where each step of the device's last run was: "device", "host" or "view".
std::vector<std::string> sides_of(const Session& session) {
  std::vector<std::string> sides;
  for (const PlannedStep& step : session.plan()->steps) {
    sides.emplace_back(step.is_view ? "view" : step.is_on_device() ? "device" : "host");
    EXPECT_EQ(step.is_view, step.step.kernels.empty()) << step.name();
    EXPECT_FALSE(step.is_view && step.is_on_device()) << step.name();
    EXPECT_TRUE(step.step.kernels != "copy:cuda" || step.ops() == "cat") << step.name();
  }
  return sides;
}

// The bytes that a run copies over: of inputs, and before each step that has any.
struct Copies {
  std::vector<Range> inputs;
  std::vector<std::pair<size_t, std::vector<Range>>> before;

  explicit Copies(const Session& session) {
    const Plan& plan = *session.plan();
    const DevicePlan own(session.model(), plan);
    inputs = own.inputs();
    for (size_t step = 0; step <= plan.steps.size(); ++step)
      if (!own.before(step).empty()) before.emplace_back(step, own.before(step));
  }
};

Range rows_at(const Session& session, ValueId owner, int64_t first, int64_t end) {
  constexpr int64_t kRow = Rows::kWidth * int64_t{sizeof(float)};
  const int64_t begin = session.plan()->offsets[static_cast<size_t>(owner)];
  return {begin + first * kRow, begin + end * kRow};
}

TEST(DeviceViews, HaveNeitherKernelsNorCopies) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  Rows rows;
  const ValueId x = rows.input(7), bent = rows.node(Op::tanh, {x});
  const std::vector<ValueId> parts = rows.split(rows.slice(bent, 1, 6), {2, 4});  // views of a view
  const ValueId flat = rows.reshape(parts[1], {2, 2, Rows::kWidth});
  const ValueId turned = rows.permute(rows.reshape(flat, {1, 4, Rows::kWidth}), {1, 0, 2});
  const ValueId sums = rows.node(Op::cumsum, {rows.reshape(turned, {4, Rows::kWidth})});
  // An output that is a view, one that another lies in, one that lies in the input, and a part of it that the device reads.
  const ValueId late = rows.reshape(parts[0], {2 * Rows::kWidth}), first = rows.slice(x, 0, 1);
  Pair pair(rows.finish({sums, late, parts[0], rows.reshape(first, {4, 4}), rows.node(Op::sqrt, {first})}));
  pair.expect_same_runs(program::kOnes);
  EXPECT_EQ(sides_of(*pair.device), (std::vector<std::string>{"device", "view", "view", "view", "view", "view", "view",
                                                              "device", "view", "view", "view", "device"}));
  const Copies copies(*pair.device);
  EXPECT_EQ(copies.inputs, (std::vector{rows_at(*pair.device, x, 0, 7)})) << "once, though a step reads a part by itself";
  ASSERT_EQ(copies.before.size(), 1U) << "outputs";
  EXPECT_EQ(copies.before[0].second.size(), 3U) << "rows 1 and 2 once, which are two of the outputs";
  EXPECT_EQ(copies.before[0].second[0], rows_at(*pair.device, bent, 1, 3));
}

// Parts of what one side made are read by both in turns: each crosses once, with those beside it, and what only its own side reads does not.
TEST(DeviceViews, AreReadByStepsOfBothSides) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const bool made_by_host : {false, true}) {
    SCOPED_TRACE(made_by_host);
    const Op own = made_by_host ? Op::cumsum : Op::tanh, other = made_by_host ? Op::tanh : Op::cumsum;
    Rows rows;
    const ValueId made = rows.node(own, {rows.input(8)});
    const std::vector<ValueId> parts = rows.split(made, {1, 2, 3, 1, 1});
    std::vector<ValueId> outputs;
    for (size_t i = 0; i < parts.size(); ++i) outputs.push_back(rows.node(i % 2 == 0 ? own : other, {parts[i]}));
    outputs.push_back(rows.node(other, {rows.slice(made, 1, 3)}));
    const HostOps host("cumsum");
    Pair pair(rows.finish(outputs));
    pair.expect_same_runs(program::kOnes);
    const std::string here = made_by_host ? "host" : "device", there = made_by_host ? "device" : "host";
    EXPECT_EQ(sides_of(*pair.device),
              (std::vector<std::string>{here, "view", here, there, here, there, here, "view", there}));
    const Copies copies(*pair.device);
    EXPECT_EQ(copies.inputs.empty(), made_by_host);
    ASSERT_EQ(copies.before.size(), 2U);
    EXPECT_EQ(copies.before[0].first, 3U);
    EXPECT_EQ(copies.before[0].second, (std::vector{rows_at(*pair.device, made, 1, 4), rows_at(*pair.device, made, 6, 7)}));
    EXPECT_EQ(copies.before[1].first, 9U) << "outputs of the device";
  }
}

// Of one size what a step does lies in its input, and of another it does not.
TEST(DeviceViews, ArePlannedForEachSize) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const char* ops : {"", "cumsum", "tanh", "tanh,slice,reshape"}) {
    const HostOps host(ops);
    ProgramBuilder b;
    const Dim tokens = b.symbol("tokens", 2, 100);
    const ValueId x = b.input("x", {kBatch, tokens, 16}), bent = *b.node(Op::tanh, "bent", {x});
    const program::Attributes rest{
        {"dim", int64_t{1}}, {"start", int64_t{1}}, {"length", Shape{*sum(tokens, -1)}}, {"step", int64_t{1}}};
    const ValueId behind = *b.node(Op::slice, "behind", {bent}, rest);
    const ValueId turned = *b.node(Op::permute, "turned", {behind}, {{"dims", Sizes{1, 0, 2}}});
    const ValueId y = *b.node(Op::cumsum, "y", {turned});
    Pair pair(*b.finish({y, turned, behind}));
    for (const auto& [batch, count] : {std::pair<int64_t, int64_t>{1, 5}, {2, 5}, {1, 2}, {1, 33}, {0, 3}, {2, 5}, {1, 5}}) {
      program::SymbolSizes sizes = program::at_batch(batch);
      sizes[1] = count;
      pair.expect_same_runs(sizes, 2);
      EXPECT_EQ(std::ranges::count_if(pair.device->plan()->steps, &PlannedStep::is_view), batch == 1 ? 2 : 0);
    }
  }
}

// Keys and values that are parts of a product of one token are written behind those of a state.
TEST(DeviceViews, AreWrittenToStates) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const char* ops : {"", "attention", "tanh"}) {
    const HostOps host(ops);
    ProgramBuilder b;
    const Dim tokens = b.symbol("tokens", 1, 200);
    b.declare({"context", 1, 200, true});
    const ValueId bent = *b.node(Op::tanh, "bent", {b.input("x", {kBatch, tokens, 48})});
    std::vector<ValueId> inputs;
    const std::vector<ValueId> parts =
        *b.nodes(Op::split, "parts", {bent}, {{"dim", int64_t{2}}, {"sizes", Shape{16, 16, 16}}});
    for (const ValueId part : parts) {
      const ValueId head =
          *b.node(Op::reshape, fmt::format("head{}", inputs.size()), {part}, {{"shape", Shape{kBatch, tokens, 1, 16}}});
      inputs.push_back(*b.node(Op::permute, fmt::format("turned{}", inputs.size()), {head}, {{"dims", Sizes{0, 2, 1, 3}}}));
    }
    const Shape state{kBatch, 1, Dim::of_symbol(2), 16};
    inputs.insert(inputs.end(), {program::kNone, b.state("keys", state), b.state("values", state)});
    Pair pair(*b.finish({*b.node(Op::attention, "y", inputs, {{"causal", int64_t{1}}, {"scale", 0.3}})}));
    for (const int64_t count : {7, 1, 1, 1, 70, 1, 1}) {  // beyond the states' first capacity
      program::SymbolSizes sizes = program::at_batch(1);
      sizes[1] = count, sizes[2] = pair.cpu->position() + count;
      pair.expect_same_runs(sizes, 1);
      EXPECT_EQ(std::ranges::count_if(pair.device->plan()->steps, &PlannedStep::is_view), count == 1 ? 7 : 6);
    }
  }
}

// An error behind views is the CPU's, whichever side runs into it, and the session goes on.
TEST(DeviceViews, LeaveErrorsToTheHost) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const char* ops : {"", "embedding", "add"}) {
    const HostOps host(ops);
    ProgramBuilder b;
    const ValueId ids = b.input("ids", {3, 8}, DType::kInt64);  // 64 bytes a row
    const ValueId shifted = *b.node(Op::add, "shifted", {ids, ids});
    const auto parts = *b.nodes(Op::split, "parts", {shifted}, {{"dim", int64_t{0}}, {"sizes", Shape{1, 2}}});
    const ValueId rows = *b.node(Op::embedding, "rows", {parts[1], b.floats("table", {9, 4}, random_floats(36, 1))});
    Pair pair(*b.finish({rows, parts[0]}));
    for (int round = 0; round < 3; ++round)
      for (const int64_t last : {4, 5, 0, -1}) {
        std::vector<int64_t> values(24, 3);
        values[0] = 50, values[23] = last;
        pair.expect_same(program::kOnes, {as_bytes(values)});
      }
  }
}

// Programs at random: parts of parts, of what is computed on both sides and of the input, and those that are outputs.
Program random_program(uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](size_t count) { return static_cast<size_t>(random() % count); };
  Rows rows;
  std::vector<ValueId> values{rows.input(rows.symbol("rows", 6))};
  std::vector<int64_t> least{6};  // rows that each has at least
  const auto add = [&](ValueId value, int64_t count) { values.push_back(value), least.push_back(count); };
  while (values.size() < 18) {
    const size_t i = below(values.size()), j = below(values.size());
    const ValueId x = values[i];
    const Dim length = rows.rows_of(x);
    const int64_t count = least[i];
    switch (below(8)) {
      case 0: {
        const auto start = static_cast<int64_t>(below(static_cast<size_t>(count)));
        add(rows.slice(x, start, *sum(length, -start)), count - start);
        break;
      }
      case 1:
        add(rows.slice(x, -count, 1), 1);
        break;
      case 2: {
        if (count < 2) break;
        const std::vector<ValueId> parts = rows.split(x, {1, *sum(length, -1)});
        add(parts[0], 1), add(parts[1], count - 1);
        break;
      }
      case 3:
        add(rows.reshape(rows.permute(rows.reshape(x, {1, length, Rows::kWidth}), {1, 0, 2}), {length, Rows::kWidth}),
            count);
        break;
      case 4:
        add(rows.node(Op::cat, {x, values[j]}, {{"dim", int64_t{0}}}), count + least[j]);
        break;
      default:
        add(rows.node(std::array{Op::tanh, Op::cumsum, Op::relu, Op::sigmoid}[below(4)], {x}), count);
    }
  }
  std::vector<ValueId> outputs;
  for (size_t i = 0; i < 4; ++i)
    if (const ValueId value = values[values.size() - 1 - below(12)]; std::ranges::find(outputs, value) == outputs.end())
      outputs.push_back(value);
  return rows.finish(outputs);
}

TEST(DeviceViews, OfAnyProgramHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  int64_t views = 0, on_host = 0;
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(seed);
    const HostOps host(std::array{"", "cumsum", "tanh,relu", "cat,cumsum", "slice,split,sigmoid"}[seed % 5]);
    Pair pair(random_program(seed));
    for (const int64_t count : {6, 9, 6, 17}) {
      program::SymbolSizes sizes = program::at_batch(1);
      sizes[1] = count;
      pair.expect_same_runs(sizes, 2);
    }
    for (const std::string& side : sides_of(*pair.device)) views += side == "view", on_host += side == "host";
  }
  EXPECT_GT(views, 500);
  EXPECT_GT(on_host, 100);
}

}  // namespace
}  // namespace bitlab::runtime
