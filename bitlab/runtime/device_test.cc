// Sessions on a device beside those of the CPU, to the bit. The device is the one that the host plays (tests/cuda/emulated_plugin.cc): a ctest entry of its
// own sets BITLAB_CUDA_PLUGIN and BITLAB_DEVICE, and runs the other suites of the runtime on it, too.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <ranges>
#include <thread>

#include <gtest/gtest.h>

#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/device_test_support.h"

namespace bitlab::runtime {
namespace {

using kernels::test::packed;
using kernels::test::random_floats;
using kernels::test::random_int8;

TEST(Device, NamesThatAreNoneAreRefused) {
  const auto model = Model::create(example_of(Op::relu, {})).value();
  for (const char* name : {"gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "CPU"}) {
    const auto session = Session::create(model, {.device = name});
    ASSERT_FALSE(session.ok()) << name;
    EXPECT_EQ(session.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(session.error().message, fmt::format("[session] a device 'cpu', 'cuda' or 'cuda:<number>', got '{}'", name));
  }
}

TEST(Device, WithoutAPlugInIsOneLineAndACapability) {
  if (kernels::cuda_plugin().ok()) GTEST_SKIP() << "where there is a plug-in";
  const auto model = Model::create(example_of(Op::relu, {})).value();
  const auto session = Session::create(model, {.device = "cuda"});
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(error_group(session.error().code), ErrorGroup::kCapability);
  EXPECT_TRUE(session.error().message.starts_with("[cuda] libbitlab_cuda.so")) << session.error().message;
  EXPECT_EQ(session.error().message.find('\n'), std::string::npos);
}

TEST(Device, ThatIsNotThereIsOneLineAndACapability) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  const auto model = Model::create(example_of(Op::relu, {})).value();
  const auto session = Session::create(model, {.device = "cuda:2"});
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(error_group(session.error().code), ErrorGroup::kCapability);
  EXPECT_EQ(session.error().message, "[session] a device from 'cuda:0' to 'cuda:1', got 'cuda:2'");
}

// A program's current device, here the second one, is what it was, whatever devices its sessions have.
TEST(Device, EachSessionHasItsOwn) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  const kernels::CudaPlugin& plugin = *kernels::cuda_plugin().value();
  int32_t before = 0, behind = 0;
  ASSERT_EQ(plugin.use_device(1, &before), nullptr);
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 3, sizes[2] = 3;
  {
    const auto model = Model::create(example_of(Op::ternary_linear, {})).value();
    const auto data = random_inputs(model->program(), sizes, 1);
    const std::string expected = outcome(*session_on(model, "cpu"), sizes, data);
    const auto first = session_on(model, "cuda:0"), second = session_on(model, "cuda:1");
    for (int run = 0; run < 3; ++run)
      for (Session* session : {first.get(), second.get()}) EXPECT_TRUE(outcome(*session, sizes, data) == expected);
  }
  EXPECT_EQ(plugin.use_device(before, &behind), nullptr);
  EXPECT_EQ(behind, 1);
}

TEST(Device, EveryOperationInEveryFormHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const Op op : all_ops())
    for (const Variant& variant : variants(op)) {
      SCOPED_TRACE(name(op));
      Pair pair(example_of(op, variant));
      for (const int64_t batch : {3, 1, 0}) {
        program::SymbolSizes sizes = program::at_batch(batch);
        sizes[1] = 5, sizes[2] = 5;
        pair.expect_same_runs(sizes);
        pair.cpu->reset(), pair.device->reset();
      }
    }
}

// Zeros, subnormals, infinities, NaN and bits as they come. NaN is compared as NaN: its sign and payload are a processor's.
TEST(Device, FunctionsOfAnyValueHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x{0.0F,          -0.0F, 1e-45F, -1e-45F, 1.17549435e-38F, kInfinity, -kInfinity,
                       std::nanf(""), 1,     -1,     88.72F,  -87.3F,          3e38F};
  for (uint32_t bits = 12345; x.size() < 4099; bits = bits * 1664525U + 1013904223U) x.push_back(std::bit_cast<float>(bits));
  for (const float value : random_floats(997, 1)) x.push_back(4 * value);
  const auto count = static_cast<int64_t>(x.size());
  const auto same = [](float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
  };
  const auto check = [&](Op op, bool is_binary) {
    ProgramBuilder b;
    const ValueId in = b.input("x", {kBatch, count}), turned = *b.node(Op::flip, "turned", {in}, {{"dims", Sizes{1}}});
    const ValueId y = *b.node(op, "y", is_binary ? std::vector{in, turned} : std::vector{in});
    Pair pair(*b.finish({y}));
    const TensorView input({1, count}, x.data());
    const float *expected = pair.cpu->run({&input, 1}).value()[0].as(),
                *found = pair.device->run({&input, 1}).value()[0].as();
    for (int64_t i = 0; i < count; ++i)
      ASSERT_TRUE(same(found[i], expected[i]))
          << name(op) << " of " << x[static_cast<size_t>(i)] << ": " << found[i] << ", not " << expected[i];
  };
#define BITLAB_UNARY(name, exactness) check(Op::name, false);
#define BITLAB_BINARY(name, exactness) check(Op::name, true);
#include "bitlab/program/elementwise.def"
}

// Sizes that whole tiles do not divide, in each of the products' forms.
TEST(Device, ProductsOfOddShapesHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  constexpr int64_t kDepth = 131, kRows = 67;
  for (const int64_t tokens : {1, 3, 17, 49, 130}) {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, kDepth});
    const auto t = random_int8(kRows * kDepth, 1, -1, 1), w = random_int8(kRows * kDepth, 2, -127, 127);
    const ValueId ternary =
        *b.node(Op::ternary_linear, "ternary",
                {x, b.ternary("t", {kRows, kDepth}, packed(t, kRows, kDepth), random_floats(kRows, 3, 0.1F))}, test::kInt8);
    const ValueId int8 = *b.node(Op::ternary_linear, "int8",
                                 {x, b.int8("w", {kRows, kDepth}, w, random_floats(kRows, 4, 0.1F))}, test::kInt8);
    const ValueId floats =
        *b.node(Op::ternary_linear, "floats",
                {x, b.ternary("tf", {kRows, kDepth}, packed(t, kRows, kDepth), random_floats(kRows, 7, 0.1F))},
                {{"activation", std::string("none")}});
    const ValueId linear = *b.node(Op::linear, "linear",
                                   {x, b.floats("f", {kRows, kDepth}, random_floats(kRows * kDepth, 5)),
                                    b.floats("bias", {kRows}, random_floats(kRows, 6))});
    const ValueId turned = *b.node(Op::permute, "turned", {linear}, {{"dims", Sizes{1, 0}}});
    const ValueId squared = *b.node(Op::matmul, "squared", {turned, x});
    Pair pair(*b.finish({ternary, int8, floats, linear, squared}));
    pair.expect_same_runs(program::at_batch(tokens), 2);
  }
}

TEST(Device, ConvolutionsOfOddShapesHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  struct Case {
    int64_t channels, rows, groups, kernel, stride, padding, dilation;
  };
  for (const Case& c : {Case{3, 19, 1, 5, 2, 2, 1}, Case{16, 33, 1, 1, 1, 0, 1}, Case{16, 5, 1, 3, 1, 1, 2},
                        Case{20, 20, 20, 3, 1, 1, 1}, Case{12, 18, 3, 3, 1, 0, 1}, Case{32, 16, 1, 1, 2, 0, 1}}) {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, c.channels, 11, 9});
    const int64_t own = c.channels / c.groups, depth = c.kernel * c.kernel * own;
    const auto sizes = [](int64_t value) { return Sizes{value, value}; };
    program::Attributes window{{"stride", sizes(c.stride)}, {"padding", sizes(c.padding)}, {"dilation", sizes(c.dilation)},
                               {"transposed", int64_t{0}},  {"output_padding", sizes(0)},  {"groups", c.groups}};
    const std::vector<int64_t> shape{c.rows, c.kernel, c.kernel, own};
    const ValueId kept = *b.node(
        Op::conv, "kept",
        {x, b.floats("f", shape, random_floats(c.rows * depth, 3)), b.floats("bias", {c.rows}, random_floats(c.rows, 4))},
        window);
    window.emplace("activation", std::string("int8"));
    const ValueId ternary = *b.node(Op::ternary_conv, "ternary",
                                    {x, b.ternary("t", shape, packed(random_int8(c.rows * depth, 1, -1, 1), c.rows, depth),
                                                  random_floats(c.rows, 2, 0.1F))},
                                    window);
    program::Attributes unrounded = window;
    unrounded["activation"] = std::string("none");
    const ValueId floats = *b.node(Op::ternary_conv, "floats",
                                   {x, b.ternary("tf", shape, packed(random_int8(c.rows * depth, 7, -1, 1), c.rows, depth),
                                                 random_floats(c.rows, 8, 0.1F))},
                                   unrounded);
    const ValueId int8 =
        *b.node(Op::ternary_conv, "int8",
                {x, b.int8("w", shape, random_int8(c.rows * depth, 5, -127, 127), random_floats(c.rows, 6, 0.1F))}, window);
    const ValueId sum = *b.node(Op::add, "sum", {ternary, kept});  // behind a convolution: a residual
    const ValueId bent = *b.node(Op::relu, "bent", {sum});
    Pair pair(*b.finish({bent, int8, floats}));
    pair.expect_same_runs(program::at_batch(2), 2);
  }
}

// Rows as long as some lanes, and longer than the lanes of a block.
TEST(Device, RowsOfAnyLengthHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const int64_t columns : {1, 15, 16, 17, 301}) {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 3, columns});
    const ValueId weight = b.floats("weight", {columns}, random_floats(columns, 1)),
                  bias = b.floats("bias", {columns}, random_floats(columns, 2));
    const program::Attributes norm{{"dims", int64_t{1}}, {"eps", 1e-5}};
    std::vector<ValueId> outputs{*b.node(Op::softmax, "softmax", {x}, {{"dim", int64_t{2}}}),
                                 *b.node(Op::layer_norm, "layer_norm", {x, weight, bias}, norm),
                                 *b.node(Op::rms_norm, "rms_norm", {x, weight}, norm)};
    for (const Op op : {Op::mean, Op::sum, Op::max, Op::min, Op::argmax})
      outputs.push_back(*b.node(op, std::string(name(op)), {x}));
    Pair pair(*b.finish(outputs));
    pair.expect_same_runs(program::at_batch(5), 2);
  }
}

// More keys and wider values than a block has threads, with every kind of mask, and heads that share keys.
TEST(Device, AttentionOfOddShapesHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  constexpr int64_t kHeads = 4, kGroups = 2, kQueries = 5, kKeys = 131, kDepth = 9, kValues = 130;
  for (const int form : {0, 1, 2, 3}) {  // none, causal, added, bools
    ProgramBuilder b;
    std::vector<ValueId> inputs{b.input("q", {kBatch, kHeads, kQueries, kDepth}),
                                b.input("k", {kBatch, kGroups, form == 1 ? kQueries : kKeys, kDepth}),
                                b.input("v", {kBatch, kGroups, form == 1 ? kQueries : kKeys, kValues})};
    if (form == 2) inputs.push_back(b.input("mask", {1, kHeads, kQueries, kKeys}));
    if (form == 3) inputs.push_back(b.input("mask", {kBatch, 1, 1, kKeys}, DType::kBool));
    const ValueId y = *b.node(Op::attention, "y", inputs, {{"causal", int64_t{form == 1}}, {"scale", 0.3}});
    Pair pair(*b.finish({y}));
    pair.expect_same_runs(program::at_batch(2), 2);
  }
}

// Values that are hard for their type, some of them several times, `count` in all.
template <class T>
std::vector<T> hard_values(int64_t count) {
  using Limits = std::numeric_limits<T>;
  std::vector<T> known{0, 1, 1, 2, 3, 7};
  if constexpr (std::is_same_v<T, uint8_t>) {
    known = {0, 1, 1};
  } else if constexpr (std::is_same_v<T, float>) {
    for (const float value : {-0.0F, -1.0F, 0.5F, 1.5F, 2.5F, 65503.9F, 65519.9F, 65520.0F, 5.9e-8F, 1e-45F, 3e38F, -3e38F,
                              1e10F, -3.7F, 9.3e18F, Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()})
      known.push_back(value);
  } else {
    for (const T value :
         {T(-1), T(-1), T(-5), T(31), T(32), T(63), T(64), Limits::min(), Limits::max(), T(Limits::min() + 1)})
      known.push_back(value);
  }
  std::vector<T> values;
  for (uint32_t i = 0, state = 99; static_cast<int64_t>(values.size()) < count; ++i, state = state * 1664525U + 1013904223U)
    values.push_back(known[(state >> 8) % known.size()]);
  return values;
}

std::vector<uint8_t> hard_bytes(DType dtype, int64_t count) {
  if (dtype == DType::kFloat32) return as_bytes(hard_values<float>(count));
  if (dtype == DType::kInt64) return as_bytes(hard_values<int64_t>(count));
  if (dtype == DType::kInt32) return as_bytes(hard_values<int32_t>(count));
  if (dtype == DType::kBool) return as_bytes(hard_values<uint8_t>(count));
  std::vector<uint16_t> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(static_cast<uint16_t>(i * 257));
  return as_bytes(all);
}

// Runs a program of one node twice, the second time as a graph.
void expect_same_node(Op op, const std::vector<std::pair<Shape, std::vector<uint8_t>>>& inputs,
                      const std::vector<DType>& dtypes, const program::Attributes& attributes = {}) {
  SCOPED_TRACE(name(op));
  ProgramBuilder b;
  std::vector<ValueId> ids;
  std::vector<std::vector<uint8_t>> data;
  for (size_t i = 0; i < inputs.size(); ++i) {
    ids.push_back(b.input(fmt::format("x{}", i), inputs[i].first, dtypes[i]));
    data.push_back(inputs[i].second);
  }
  Pair pair(*b.finish(*b.nodes(op, "y", ids, attributes)));
  for (int run = 0; run < 2; ++run) pair.expect_same(program::at_batch(2), data);
  for (const PlannedStep& step : pair.device->plan()->steps) EXPECT_TRUE(step.is_on_device());
}

TEST(Device, ScansAndOrdersOfHardValuesHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const DType dtype : {DType::kFloat32, DType::kInt64})
    for (const int64_t columns : {1, 37, 1025, 3000}) {
      const std::vector<std::pair<Shape, std::vector<uint8_t>>> x{{{kBatch, columns}, hard_bytes(dtype, 2 * columns)}};
      for (const Op op : {Op::cumsum, Op::cumprod, Op::cummax, Op::prod, Op::sum, Op::max, Op::min, Op::argmax})
        expect_same_node(op, x, {dtype});
      for (const int64_t descending : {0, 1})
        for (const int64_t length : {columns, std::min<int64_t>(columns, 5)})
          expect_same_node(Op::sort, x, {dtype}, {{"length", Shape{length}}, {"descending", descending}});
    }
}

TEST(Device, ScatteredValuesHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const int64_t wrong : {0, 1}) {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < 2 * 9 * 3; ++i) indices.push_back(i * i % 5 - (i % 2 == 0 ? 5 : 0));
    if (wrong == 1) indices[40] = -6;
    for (const DType dtype : {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool, DType::kFloat16})
      for (const char* mode : {"set", "add", "mul", "minimum", "maximum"}) {
        const bool is_plain = dtype == DType::kFloat32 || dtype == DType::kInt64;
        if (std::string_view(mode) != "set" && !is_plain) continue;
        expect_same_node(Op::scatter,
                         {{{kBatch, 5, 3}, hard_bytes(dtype, 30)},
                          {{kBatch, 9, 3}, as_bytes(indices)},
                          {{kBatch, 9, 3}, hard_bytes(dtype, 54)}},
                         {dtype, DType::kInt64, dtype}, {{"dim", int64_t{1}}, {"mode", std::string(mode)}});
      }
  }
}

// With divisors of 0, which the CPU refuses, and without.
TEST(Device, IntegersThatOverflowHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  for (const Op op : {Op::floor_divide, Op::shift_left, Op::shift_right, Op::bitwise_xor, Op::add, Op::sub, Op::mul}) {
    auto longs = hard_values<int64_t>(2 * 101);
    auto shorts = hard_values<int32_t>(2 * 101);
    for (const bool with_zeros : {true, false}) {
      if (!with_zeros) std::ranges::replace(longs, 0, 3), std::ranges::replace(shorts, 0, -3);
      const Shape shape{kBatch, 101};
      expect_same_node(op, {{shape, hard_bytes(DType::kInt64, 202)}, {shape, as_bytes(longs)}},
                       {DType::kInt64, DType::kInt64});
      expect_same_node(op, {{shape, hard_bytes(DType::kInt32, 202)}, {shape, as_bytes(shorts)}},
                       {DType::kInt32, DType::kInt32});
    }
  }
}

TEST(Device, CastsHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  constexpr std::array kAll{DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt64, DType::kInt32, DType::kBool};
  for (const DType from : kAll)
    for (const DType to : kAll)
      expect_same_node(Op::cast, {{{kBatch, 255}, hard_bytes(from, 510)}}, {from}, {{"dtype", std::string(name(to))}});
}

TEST(Device, PlacesOfGridsHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  auto places = hard_values<float>(2 * 7 * 11 * 2);
  for (size_t i = 0; i < places.size(); i += 3) places[i] = static_cast<float>(i) / 97 - 1.5F;
  for (const char* mode : {"nearest", "linear"})
    for (const char* padding : {"zeros", "border", "reflection"})
      for (const int64_t align : {0, 1})
        expect_same_node(
            Op::grid_sample,
            {{{kBatch, 3, 5, 6}, as_bytes(random_floats(2 * 3 * 5 * 6, 4))}, {{kBatch, 7, 11, 2}, as_bytes(places)}},
            {DType::kFloat32, DType::kFloat32},
            {{"mode", std::string(mode)}, {"padding", std::string(padding)}, {"align_corners", align}});
}

// States that begin at zero, in both directions; with hidden states that are not finite, which ternary layers refuse.
TEST(Device, RecurrentLayersHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  constexpr int64_t kHidden = 21, kTokens = 6;
  for (const char* cell : {"lstm", "gru"})
    for (const int64_t reverse : {0, 1})
      for (const char* activation : {"", "int8", "none"}) {
        SCOPED_TRACE(fmt::format("{} {} {}", cell, reverse, activation));
        const int64_t gates = (std::string_view(cell) == "lstm" ? 4 : 3) * kHidden;
        ProgramBuilder b;
        const ValueId x = b.input("x", {kBatch, kTokens, gates});
        program::Attributes attributes{{"cell", std::string(cell)}, {"reverse", reverse}};
        const auto t = random_int8(gates * kHidden, 3, -1, 1);
        std::vector<ValueId> inputs{x};
        const bool is_float = std::string_view(activation).empty();
        if (is_float) {
          inputs.push_back(b.floats("w", {gates, kHidden}, random_floats(gates * kHidden, 5)));
        } else {
          inputs.push_back(b.ternary("w", {gates, kHidden}, packed(t, gates, kHidden), random_floats(1, 5)));
          attributes.emplace("activation", std::string(activation));
        }
        inputs.push_back(b.floats("bias", {gates}, random_floats(gates, 6)));
        Pair pair(*b.finish(*b.nodes(is_float ? Op::recurrent : Op::ternary_recurrent, "y", inputs, attributes)));
        pair.expect_same_runs(program::at_batch(3));
        std::vector<float> hard = random_floats(3 * kTokens * gates, 8);
        hard[static_cast<size_t>(gates) + 3] = std::numeric_limits<float>::quiet_NaN();
        pair.expect_same(program::at_batch(3), {as_bytes(hard)});
        for (const PlannedStep& step : pair.device->plan()->steps) EXPECT_TRUE(step.is_on_device());
      }
}

// An error has the CPU's words, whatever ran behind it, and leaves a session that goes on.
TEST(Device, ErrorsAreThoseOfTheCpu) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  ProgramBuilder b;
  const ValueId ids = b.input("ids", {kBatch}, DType::kInt64), gain = b.input("gain", {1});
  const ValueId rows = *b.node(Op::embedding, "rows", {ids, b.floats("table", {5, 8}, random_floats(40, 1))});
  const ValueId gained = *b.node(Op::mul, "gained", {rows, gain});
  const auto t = random_int8(64, 2, -1, 1);
  const ValueId y =
      *b.node(Op::ternary_linear, "y", {gained, b.ternary("w", {8, 8}, packed(t, 8, 8), random_floats(1, 3))}, test::kInt8);
  Pair pair(*b.finish({y}));
  const float infinity = std::numeric_limits<float>::infinity();
  const program::SymbolSizes sizes = program::at_batch(3);
  for (int round = 0; round < 2; ++round) {  // the second as a graph
    for (const auto& [third, factor] :
         {std::pair<int64_t, float>{4, 1.0F}, {5, 1.0F}, {1, infinity}, {-1, infinity}, {0, 2.0F}})
      pair.expect_same(sizes, {as_bytes(std::vector<int64_t>{0, 3, third}), as_bytes(std::vector<float>{factor})});
    const std::string wrong =
        outcome(*pair.device, sizes, {as_bytes(std::vector<int64_t>{0, 3, 9}), as_bytes(std::vector<float>{1})});
    EXPECT_EQ(wrong, "[embedding] indices from 0 to 4, got 9 (node=rows)");
  }
}

// Steps say where they run, and what the host has between two of the device's costs copies alone.
TEST(Device, StepsOfTheHostStandBetweenThoseOfTheDevice) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 9});
  const ValueId bent = *b.node(Op::tanh, "bent", {x}), sums = *b.node(Op::cumsum, "sums", {bent});
  const ValueId y = *b.node(Op::mul, "y", {sums, bent}), twice = *b.node(Op::cumsum, "twice", {y});
  Pair pair(*b.finish({twice, y}));
  const HostOps host("sort,cumsum");
  pair.expect_same_runs(program::at_batch(7));
  std::vector<std::string> kernels;
  for (const PlannedStep& step : pair.device->plan()->steps) kernels.push_back(step.step.kernels);
  EXPECT_EQ(kernels, (std::vector<std::string>{"elementwise:cuda", "host", "elementwise:cuda", "host"}));
  EXPECT_EQ(pair.device->device(), "cuda:0");
}

TEST(Device, AbortEndsARunBeforeItsNextStep) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 4}), y = *b.node(Op::softmax, "y", {x}, {{"dim", int64_t{1}}});
  const auto model = Model::create(*b.finish({*b.node(Op::relu, "z", {y})})).value();
  bool stop = false;
  const auto session =
      Session::create(model, {.threads = 1, .trace = {}, .abort = [&] { return stop; }, .device = "cuda"}).value();
  const std::vector<float> values = random_floats(8, 1);
  const TensorView input({2, 4}, values.data());
  for (int i = 0; i < 3; ++i) {
    stop = true;
    EXPECT_EQ(session->run({&input, 1}).error().code, ErrorCode::kCancelled);
    stop = false;
    EXPECT_TRUE(session->run({&input, 1}).ok());
  }
}

TEST(Device, ADriverThatMakesNoGraphRunsStepByStep) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  Pair pair(example_of(Op::ternary_linear, {}));
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 3, sizes[2] = 3;
  setenv("BITLAB_EMULATED_WITHOUT_GRAPHS", "1", 1);
  pair.expect_same_runs(sizes);
  unsetenv("BITLAB_EMULATED_WITHOUT_GRAPHS");
}

// Sessions of one model share its weights there, on threads of their own.
TEST(Device, SessionsOfAModelMayRunAtOnce) {
  BITLAB_NEEDS_THE_EMULATED_DEVICE();
  const auto model = Model::create(example_of(Op::ternary_linear, {})).value();
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 3, sizes[2] = 3;
  const auto data = random_inputs(model->program(), sizes, 1);
  const std::string expected = outcome(*session_on(model, "cpu"), sizes, data);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      const auto session = session_on(model, "cuda");
      for (int run = 0; run < 5; ++run) EXPECT_TRUE(outcome(*session, sizes, data) == expected);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace bitlab::runtime
