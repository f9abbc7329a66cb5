// verify() against every way in which a program can be wrong, and shape rules against LibTorch's documented formulas.
#include "bitlab/program/program.h"

#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/program/print.h"
#include "bitlab/program/verify.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::program {
namespace {

std::vector<uint8_t> zeros(int64_t rows, int64_t depth) {
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(std::vector<int8_t>(static_cast<size_t>(rows * depth)), rows, depth, codes);
  return codes;
}

Attributes window(const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  return {{"stride", stride},     {"padding", padding},       {"dilation", dilation},
          {"groups", int64_t{1}}, {"transposed", int64_t{0}}, {"output_padding", Sizes(stride.size(), 0)}};
}

Attributes ternary_window() {
  auto attributes = window({1, 1}, {0, 0}, {1, 1});
  attributes["activation"] = std::string("int8");
  return attributes;
}

// input [batch, 2, 6, 7] - ternary_conv 3x3 to 4 - relu - reshape - ternary_linear to 5, softmax.
Program valid() {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2, 6, 7});
  const ValueId w = b.ternary("conv.weight", {4, 3, 3, 2}, zeros(4, 18), {0.5F});
  ValueId v = b.node(Op::ternary_conv, "conv", {x, w, kNone}, ternary_window()).value();
  v = b.node(Op::relu, "relu", {v}).value();
  v = b.node(Op::reshape, "flatten", {v}, {{"shape", Shape{kBatch, 80}}}).value();
  const ValueId fc = b.ternary("fc.weight", {5, 80}, zeros(5, 80), std::vector<float>(5, 0.1F));
  const ValueId bias = b.floats("fc.bias", {5}, std::vector<float>(5, 1.0F));
  v = b.node(Op::ternary_linear, "fc", {v, fc, bias}, {{"activation", std::string("int8")}}).value();
  v = b.node(Op::softmax, "softmax", {v}, {{"dim", int64_t{1}}}).value();
  return b.finish({v}).value();
}

TEST(Program, PrintsAsItIs) {
  EXPECT_EQ(
      print(valid()),
      "symbol batch from 0\n"
      "input x: float32[batch, 2, 6, 7]\n"
      "constant conv.weight: ternary[4, 3, 3, 2]\n"
      "constant fc.weight: ternary[5, 80]\n"
      "constant fc.bias: float32[5]\n"
      "conv: float32[batch, 4, 4, 5] = ternary_conv(x=x, weight=conv.weight, stride=(1, 1), padding=(0, 0), "
      "dilation=(1, 1), transposed=0, output_padding=(0, 0), groups=1, activation=int8)  # same_kernel\n"
      "relu: float32[batch, 4, 4, 5] = relu(x=conv)  # ieee_exact\n"
      "flatten: float32[batch, 80] = reshape(x=relu, shape=[batch, 80])  # ieee_exact\n"
      "fc: float32[batch, 5] = ternary_linear(x=flatten, weight=fc.weight, bias=fc.bias, activation=int8)  # same_kernel\n"
      "softmax: float32[batch, 5] = softmax(x=fc, dim=1)  # bounded\n"
      "output output = softmax\n");
}

TEST(Program, IsExactWithoutBoundedNodes) {
  Program p = valid();
  EXPECT_FALSE(p.is_exact());
  p.outputs = {{"y", p.nodes[3].output()}};
  p.nodes.pop_back();
  EXPECT_TRUE(p.is_exact());
  p.nodes[1].exactness = Exactness::kBounded;  // it belongs to the node
  EXPECT_FALSE(p.is_exact());
}

// Masks have infinite values; NaN is no number.
TEST(Verify, ConstantsAreNumbersOrInfinite) {
  const auto with = [](float value, uint16_t half, Storage storage) -> std::string {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 2});
    const ValueId mask = b.floats("mask", {2}, {0, value}), other = b.halves("other", {2}, {0, half}, storage);
    const ValueId y = b.node(Op::add, "y", {x, mask}).value();
    const auto program = b.finish({b.node(Op::add, "z", {y, other}).value()});
    return program.ok() ? "" : program.error().message;
  };
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(with(-infinity, 0xFC00, Storage::kFloat16), "");
  EXPECT_EQ(with(infinity, 0x7F80, Storage::kBFloat16), "");
  EXPECT_EQ(with(nan, 0, Storage::kFloat16), "[verify] constants that are numbers, got nan (value=mask, index=1)");
  EXPECT_EQ(with(1, 0xFF81, Storage::kBFloat16),
            "[verify] constants that are numbers, got bfloat16 of bits 0xff81 (value=other, index=1)");
}

// A layer in int8 takes what one with ternary weights takes, within what int32 sums hold.
TEST(Verify, WeightsInInt8) {
  const auto layer = [](int64_t depth, std::vector<int8_t> t, std::vector<float> scale,
                        const char* activation) -> std::string {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, depth}), w = b.int8("w", {2, depth}, std::move(t), std::move(scale));
    const auto node = b.node(Op::ternary_linear, "fc", {x, w}, {{"activation", std::string(activation)}});
    if (!node.ok()) return node.error().message;
    const auto program = b.finish({*node});
    return program.ok() ? "" : program.error().message;
  };
  EXPECT_EQ(layer(3, {1, -127, 127, 0, 5, 6}, {0.5F, 2}, "int8"), "");
  EXPECT_EQ(layer(3, {1, -128, 127, 0, 5, 6}, {0.5F}, "int8"),
            "[verify] int8 weights in [-127, 127], got -128 (value=w, index=1)");
  EXPECT_EQ(layer(3, {1, 2, 3}, {0.5F}, "int8"), "[verify] 6 weights for [2, 3], got 3 (value=w)");
  EXPECT_EQ(layer(3, {1, 2, 3, 4, 5, 6}, {1, 2, 3}, "int8"), "[verify] 1 or 2 scales, got 3 (value=w)");
  EXPECT_EQ(layer(3, {1, 2, 3, 4, 5, 6}, {std::numeric_limits<float>::infinity()}, "int8"),
            "[verify] finite scales, got inf (value=w, index=0)");
  EXPECT_EQ(layer(3, {1, 2, 3, 4, 5, 6}, {1}, "none"),
            "[ternary_linear] int8 or int4 activations of weights in int8, got none (node=fc)");
  const int64_t deep = ternary::kMaxInt8Depth + 1;
  EXPECT_EQ(layer(deep, std::vector<int8_t>(static_cast<size_t>(2 * deep)), {1}, "int8"),
            "[verify] a depth of at most 131072, beyond which int32 sums could overflow, got 131073 (value=w)");
}

TEST(Verify, FindsWhatIsWrong) {
  struct Case {
    const char* what;
    std::function<void(Program&)> break_it;
  };
  static const std::vector<uint8_t> bad_codes(20, 0xFF);
  static const std::vector<uint16_t> halves(4, 0x3C00);
  static const std::vector<float> not_finite(5, std::numeric_limits<float>::quiet_NaN()), two(2, 1.0F);
  const Case cases[] = {
      {"a name twice", [](Program& p) { p.values[1].name = p.values[0].name; }},
      {"an empty name", [](Program& p) { p.values[0].name = ""; }},
      {"a size of zero", [](Program& p) { p.values[0].shape[1].factor = 0; }},
      {"a negative size", [](Program& p) { p.values[0].shape[1].factor = -2; }},
      {"a rank of six", [](Program& p) { p.values[0].shape.insert(p.values[0].shape.end(), 2, Dim(1)); }},
      {"a symbolic constant", [](Program& p) { p.values[1].shape[0] = with_factor(kBatch, 4); }},
      {"an input that does not exist", [](Program& p) { p.nodes[0].inputs[0] = 99; }},
      {"a negative input", [](Program& p) { p.nodes[1].inputs[0] = -5; }},
      {"a required input left out", [](Program& p) { p.nodes[1].inputs[0] = kNone; }},
      {"an input before its definition", [](Program& p) { std::swap(p.nodes[1], p.nodes[2]); }},
      {"too many inputs", [](Program& p) { p.nodes[1].inputs.push_back(0); }},
      {"too few inputs", [](Program& p) { p.nodes[1].inputs.clear(); }},
      {"a float where codes must be", [](Program& p) { p.nodes[3].inputs[1] = p.nodes[3].inputs[2]; }},
      {"codes where floats must be", [](Program& p) { p.nodes[3].inputs[2] = p.nodes[3].inputs[1]; }},
      {"an attribute too few", [](Program& p) { p.nodes[0].attributes.erase("stride"); }},
      {"an attribute too many", [](Program& p) { p.nodes[1].attributes["alpha"] = int64_t{1}; }},
      {"an attribute of another type", [](Program& p) { p.nodes[0].attributes["stride"] = int64_t{1}; }},
      {"an unknown activation", [](Program& p) { p.nodes[3].attributes["activation"] = std::string("int5"); }},
      {"static activations without a step",
       [](Program& p) { p.nodes[3].attributes["activation"] = std::string("int8_static"); }},
      {"a step for dynamic activations", [](Program& p) { p.nodes[3].inputs[3] = p.nodes[3].inputs[2]; }},
      {"groups of 100", [](Program& p) { std::get<TernaryData>(p.constants[1].data).group = 100; }},
      {"groups without their scales", [](Program& p) { std::get<TernaryData>(p.constants[1].data).group = 64; }},
      {"groups across taps",
       [](Program& p) {
         auto& data = std::get<TernaryData>(p.constants[0].data);
         data.scale = {}, data.group_scale = halves, data.group = 64;
       }},
      {"negative scales of another length", [](Program& p) { std::get<TernaryData>(p.constants[1].data).scale_neg = two; }},
      {"a stride of zero",
       [](Program& p) {
         p.nodes[0].attributes["stride"] = Sizes{0, 1};
       }},
      {"a huge padding",
       [](Program& p) {
         p.nodes[0].attributes["padding"] = Sizes{int64_t{1} << 62, 1};
       }},
      {"a result of another shape",
       [](Program& p) { p.values[static_cast<size_t>(p.nodes[1].output())].shape[1].factor = 3; }},
      {"a value written twice", [](Program& p) { p.nodes[2].outputs = p.nodes[1].outputs; }},
      {"an output that does not exist",
       [](Program& p) {
         p.outputs = {{"y", 77}};
       }},
      {"no output", [](Program& p) { p.outputs.clear(); }},
      {"an input listed twice", [](Program& p) { p.inputs.push_back(p.inputs[0]); }},
      {"an input not listed", [](Program& p) { p.inputs.clear(); }},
      {"a constant without data", [](Program& p) { p.constants.pop_back(); }},
      {"a constant with data twice", [](Program& p) { p.constants.push_back(p.constants[0]); }},
      {"codes of 3", [](Program& p) { std::get<TernaryData>(p.constants[0].data).codes = bad_codes; }},
      {"codes of another length", [](Program& p) { std::get<TernaryData>(p.constants[0].data).codes = {}; }},
      {"two scales for four rows", [](Program& p) { std::get<TernaryData>(p.constants[0].data).scale = two; }},
      {"a scale of NaN", [](Program& p) { std::get<TernaryData>(p.constants[1].data).scale = not_finite; }},
      {"a bias of NaN", [](Program& p) { p.constants[2].data = FloatData(not_finite); }},
      {"a bias of another length", [](Program& p) { p.constants[2].data = FloatData(two); }},
  };
  ASSERT_TRUE(verify(valid()).ok());
  for (const Case& c : cases) {
    Program p = valid();
    c.break_it(p);
    const Status status = verify(p);
    EXPECT_FALSE(status.ok()) << c.what;
  }
}

TEST(Verify, NamesTheNode) {
  Program p = valid();
  p.nodes[0].attributes["stride"] = Sizes{0, 1};
  EXPECT_NE(verify(p).error().message.find("(node=conv)"), std::string::npos) << verify(p).error().message;
}

TEST(Verify, RefusesDepthsBeyondExactSums) {
  ProgramBuilder b;
  const int64_t depth = ternary::kMaxDepth + 1;
  const ValueId x = b.input("x", {kBatch, depth});
  const ValueId w = b.ternary("w", {1, depth}, zeros(1, depth), {1.0F});
  const auto node = b.node(Op::ternary_linear, "fc", {x, w, kNone}, {{"activation", std::string("int8")}});
  ASSERT_TRUE(node.ok());
  EXPECT_FALSE(b.finish({*node}).ok());
}

TEST(ShapeRules, FollowTheWindowFormula) {
  // out = floor((in + 2 padding - dilation (kernel - 1) - 1) / stride) + 1, as torch.nn.Conv2d documents it.
  for (int64_t in : {5, 6, 17})
    for (int64_t kernel : {1, 2, 3})
      for (int64_t stride : {1, 2, 3})
        for (int64_t padding : {0, 1, 4})
          for (int64_t dilation : {1, 2}) {
            ProgramBuilder b;
            const ValueId x = b.input("x", {kBatch, 1, in, in});
            const ValueId w =
                b.floats("w", {2, kernel, kernel, 1}, std::vector<float>(static_cast<size_t>(2 * kernel * kernel)));
            const ValueId y =
                b.node(Op::conv, "conv", {x, w, kNone}, window({stride, stride}, {padding, padding}, {dilation, dilation}))
                    .value();
            const int64_t out = (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
            EXPECT_EQ(b.peek().value(y).shape, (Shape{kBatch, 2, out, out}));
          }
}

// Output sizes as torch.nn.ConvTranspose1d documents them: (in - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.
TEST(ShapeRules, PaddingOfTransposedConvolutionsMayExceedTheWindow) {
  const auto shape_of = [](int64_t padding) -> std::string {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 1, 4}), w = b.floats("w", {1, 2, 1}, {1, 2});
    auto attributes = window({3}, {padding}, {1});
    attributes["transposed"] = int64_t{1};
    attributes["output_padding"] = Sizes{1};
    const auto y = b.node(Op::conv, "up", {x, w, kNone}, attributes);
    return y.ok() ? b.peek().show(b.peek().value(*y).shape) : y.error().message;
  };
  EXPECT_EQ(shape_of(0), "[batch, 1, 12]");
  EXPECT_EQ(shape_of(5), "[batch, 1, 2]");
  EXPECT_EQ(shape_of(6), "[conv] padding that leaves at least 1 of an output of 12, got 6 (node=up)");
}

TEST(ShapeRules, PoolsArePaddedByHalfAWindow) {
  const auto error_of = [](Op op, int64_t kernel, int64_t padding, int64_t dilation) -> std::string {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 1, 9});
    Attributes attributes{{"kernel_size", Sizes{kernel}}, {"stride", Sizes{1}}, {"padding", Sizes{padding}}};
    if (op == Op::max_pool) attributes["dilation"] = Sizes{dilation};
    const auto y = b.node(op, "pool", {x}, attributes);
    return y.ok() ? "" : y.error().message;
  };
  EXPECT_EQ(error_of(Op::max_pool, 2, 1, 1), "");
  EXPECT_EQ(error_of(Op::max_pool, 3, 2, 2), "");
  EXPECT_EQ(error_of(Op::max_pool, 2, 2, 1), "[max_pool] padding of at most half the window's extent 2, got 2 (node=pool)");
  EXPECT_EQ(error_of(Op::avg_pool, 3, 2, 1), "[avg_pool] padding of at most half the window's extent 3, got 2 (node=pool)");
}

// A builder asks the rules before verify() sees the shapes.
TEST(ShapeRules, SeeValidShapesAlone) {
  ProgramBuilder b;
  const auto heads = [&](const char* name, int64_t count) { return b.input(name, {kBatch, count, 2, 2}); };
  const ValueId q = heads("q", 4), k = heads("k", 0);
  const Attributes attributes{{"causal", int64_t{0}}, {"scale", 1.0}};
  EXPECT_EQ(b.node(Op::attention, "n", {q, k, k}, attributes).error().message,
            "[attention] at most 8 positive sizes and 2^40 values, got [batch, 0, 2, 2] (node=n)");
  const ValueId wide = b.input("wide", {1, int64_t{1} << 40});
  const ValueId high = b.input("high", {int64_t{1} << 40, 1});
  EXPECT_EQ(b.node(Op::add, "n", {wide, high}).error().message,
            "[add] at most 8 positive sizes and 2^40 values, got [1099511627776, 1099511627776] (node=n)");
}

TEST(ShapeRules, ReshapeKeepsTheBatchSymbolic) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 3, 4});
  const ValueId all = b.node(Op::reshape, "all", {x}, {{"shape", Shape{with_factor(kBatch, 12)}}}).value();
  EXPECT_EQ(b.peek().show(b.peek().value(all).shape), "[12*batch]");
  EXPECT_EQ(elements(b.peek().value(all).shape, at_batch(5)), 60);
}

TEST(ShapeRules, RefuseWhatDoesNotFit) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 3, 4, 4});
  const ValueId y = b.input("y", {kBatch, 3, 4, 5});
  const ValueId w = b.floats("w", {2, 5, 5, 3}, std::vector<float>(150));
  const ValueId other = b.floats("other", {2, 3, 3, 4}, std::vector<float>(72));
  EXPECT_EQ(b.node(Op::conv, "n", {x, w, kNone}, window({1, 1}, {0, 0}, {1, 1})).error().code, ErrorCode::kShapeMismatch);
  EXPECT_EQ(b.node(Op::conv, "n", {x, other, kNone}, window({1, 1}, {0, 0}, {1, 1})).error().message,
            "[conv] 4 channels in each of 1 groups, got [batch, 3, 4, 4] (node=n)");
  EXPECT_EQ(b.node(Op::add, "n", {x, y}).error().message,
            "[add] shapes that are equal or broadcast, got [batch, 3, 4, 4] and [batch, 3, 4, 5] (node=n)");
  EXPECT_FALSE(b.node(Op::softmax, "n", {x}, {{"dim", int64_t{2}}}).ok());
  EXPECT_EQ(b.node(Op::permute, "n", {x}, {{"dims", Sizes{0, 1, 1, 3}}}).error().message,
            "[permute] each dimension of [batch, 3, 4, 4] once, got [0, 1, 1, 3] (node=n)");
}

TEST(ShapeRules, RecurrentLayers) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 50);
  const ValueId x = b.input("x", {kBatch, tokens, 12}), h = b.input("h", {kBatch, 3}),
                turned = b.input("t", {tokens, kBatch, 12});
  const ValueId w = b.ternary("w", {12, 3}, zeros(12, 3), {{0.5F}}), w4 = b.ternary("w4", {12, 4}, zeros(12, 4), {{0.5F}});
  const auto types = [&](std::vector<ValueId> inputs, const std::string& cell, int64_t reverse = 0) {
    return b.nodes(Op::ternary_recurrent, "n" + std::to_string(b.peek().nodes.size()), std::move(inputs),
                   {{"cell", cell}, {"activation", std::string("int8")}, {"reverse", reverse}});
  };
  const auto states = types({x, w, kNone, kNone, h, h}, "lstm", 1).value();
  ASSERT_EQ(states.size(), 3U);
  EXPECT_EQ(b.peek().show(b.peek().value(states[0]).shape), "[batch, tokens, 3]");
  for (const size_t i : {1U, 2U}) EXPECT_EQ(b.peek().show(b.peek().value(states[i]).shape), "[batch, 3]");
  EXPECT_EQ(types({x, w4}, "gru").value().size(), 2U);
  const auto refused = [&](std::vector<ValueId> inputs, const std::string& cell, int64_t reverse = 0) {
    const std::string message = types(std::move(inputs), cell, reverse).error().message;
    return message.substr(0, message.find(" (node="));
  };
  EXPECT_EQ(refused({x, w}, "rnn"), "[ternary_recurrent] a cell of lstm, gru, got 'rnn'");
  EXPECT_EQ(refused({x, w}, "lstm", 2), "[ternary_recurrent] reverse of 0 or 1, got 2");
  EXPECT_EQ(refused({x, w}, "gru"),
            "[ternary_recurrent] a weight [3 hidden, hidden] and x [batch, tokens, 3 hidden], got [12, 3] and [batch, "
            "tokens, 12]");
  EXPECT_EQ(refused({h, w}, "lstm"), "[ternary_recurrent] rank 3 to 3, got [batch, 3]");
  EXPECT_EQ(refused({turned, w}, "lstm"), "[ternary_recurrent] tokens within samples, got [tokens, batch, 12]");
  EXPECT_EQ(refused({x, w, kNone, kNone, x}, "lstm"), "[ternary_recurrent] h0 of shape [batch, 3], got [batch, tokens, 12]");
  const ValueId h4 = b.input("h4", {kBatch, 4});
  EXPECT_EQ(refused({x, w4, kNone, kNone, h4, h4}, "gru"), "[ternary_recurrent] no c0 of a gru, got one");
  const ValueId floats = b.floats("floats", {12, 3}, std::vector<float>(36)),
                floats4 = b.floats("floats4", {12, 4}, std::vector<float>(48));
  const auto of_floats = [&](std::vector<ValueId> inputs, const std::string& cell) {
    return b.nodes(Op::recurrent, "f" + std::to_string(b.peek().nodes.size()), std::move(inputs), {{"cell", cell}});
  };
  EXPECT_EQ(of_floats({x, floats, kNone, h, h}, "lstm").value().size(), 3U);
  EXPECT_EQ(of_floats({x, floats4, kNone, h4}, "gru").value().size(), 2U);
  const std::string message = of_floats({x, floats4, kNone, h4, h4}, "gru").error().message;
  EXPECT_EQ(message.substr(0, message.find(" (node=")), "[recurrent] no c0 of a gru, got one");
}

TEST(Ops, ListHasEveryRow) {
  size_t rows = 0;
#define BITLAB_OP(name, exactness, layout, inputs, attributes) ++rows;
#include "bitlab/program/ops.def"
#undef BITLAB_OP
  EXPECT_EQ(rows, op_schemas().size());
  EXPECT_GE(rows, 64U);
}

}  // namespace
}  // namespace bitlab::program
