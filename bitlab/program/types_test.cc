// Sizes that are products of symbols, types, states: what they are written as, and every way in which they can be wrong.
#include <cmath>
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "bitlab/program/program.h"
#include "bitlab/program/verify.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::program {
namespace {

const Symbols kSymbols{{"batch", 0}, {"tokens"}, {"height", 2, 64}};

Dim dim(int64_t factor, std::array<uint8_t, 3> powers) {
  Dim d(factor);
  std::copy(powers.begin(), powers.end(), d.powers.begin());
  return d;
}

TEST(Dim, IsWrittenAndRead) {
  const std::pair<Dim, const char*> dims[] = {{Dim(28), "28"},
                                              {kBatch, "batch"},
                                              {dim(2, {1, 0, 0}), "2*batch"},
                                              {dim(1, {1, 1, 0}), "batch*tokens"},
                                              {dim(32, {0, 0, 1}), "32*height"},
                                              {dim(1, {0, 0, 2}), "height^2"},
                                              {dim(3, {1, 8, 2}), "3*batch*tokens^8*height^2"}};
  for (const auto& [d, text] : dims) {
    EXPECT_EQ(to_string(d, kSymbols), text);
    EXPECT_EQ(parse_dim(text, kSymbols).value(), d) << text;
  }
  EXPECT_EQ(parse_dim("tokens*batch*tokens", kSymbols).value(), dim(1, {1, 2, 0})) << "in any order";
  for (const char* text : {"",
                           " ",
                           "*",
                           "2*",
                           "*2",
                           "batch*",
                           "2*3",
                           "batch*2",
                           "width",
                           "batch ",
                           "Batch",
                           "2batch",
                           "batch^",
                           "batch^0",
                           "batch^-1",
                           "batch^9",
                           "batch^2^2",
                           "2^2",
                           "tokens^8*tokens",
                           "1.5",
                           "1e3",
                           "+2",
                           "0x10",
                           "99999999999999999999",
                           "batch**tokens",
                           "batch^99999999999999999999"}) {
    const auto parsed = parse_dim(text, kSymbols);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().message,
              std::string("[program] a number, symbols, their products and sums as a size, got '") + text + "'");
  }
}

TEST(Dim, IsANumberAtSizesOfItsSymbols) {
  SymbolSizes sizes = kOnes;
  sizes[0] = 3, sizes[1] = 5, sizes[2] = 7;
  EXPECT_EQ(dim(2, {1, 0, 0}).at(sizes), 6);
  EXPECT_EQ(dim(2, {1, 2, 1}).at(sizes), 2 * 3 * 25 * 7);
  EXPECT_EQ(elements({Dim(2), kBatch, dim(1, {1, 1, 0})}, sizes), 2 * 3 * 15);
  EXPECT_EQ(shape_at({Dim(2), kBatch, dim(1, {1, 1, 0})}, sizes), (std::vector<int64_t>{2, 3, 15}));
  EXPECT_EQ(volume({Dim(4), kBatch, dim(3, {1, 1, 0})}), dim(12, {2, 1, 0}));
  EXPECT_EQ(elements({}, sizes), 1);
  sizes[0] = INT64_MAX;
  EXPECT_EQ(dim(2, {8, 0, 0}).at(sizes), kManyElements) << "it saturates";
  EXPECT_EQ(elements({kBatch, kBatch, Dim(5)}, sizes), kManyElements);
  sizes[1] = 0;
  EXPECT_EQ(elements({kBatch, dim(1, {0, 1, 0})}, sizes), 0);
}

TEST(Signature, IsWrittenAsItIs) {
  Signature signature;
  const Dim tokens = signature.symbol("tokens", 1, 128);
  EXPECT_EQ(signature.symbol("tokens"), tokens) << "declared once";
  EXPECT_EQ(signature.symbol("batch"), kBatch);
  signature.inputs = {{"ids", {DType::kInt64, {kBatch, tokens}}}, {"mask", {DType::kBool, {kBatch, 1, 1, tokens}}}};
  signature.outputs = {{"logits", {DType::kFloat32, {kBatch * tokens, 7}}}};
  EXPECT_EQ(to_string(signature),
            "(ids: int64[batch, tokens], mask: bool[batch, 1, 1, tokens]) -> (logits: float32[batch*tokens, 7])");
  EXPECT_EQ(signature.symbols[1].max, 128);
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) signature.symbol(name);
  EXPECT_THROW(signature.symbol("g"), Exception);
}

TEST(DTypes, HaveNamesAndSizes) {
  const std::tuple<DType, const char*, int64_t> types[] = {
      {DType::kFloat32, "float32", 4}, {DType::kFloat16, "float16", 2}, {DType::kBFloat16, "bfloat16", 2},
      {DType::kInt64, "int64", 8},     {DType::kInt32, "int32", 4},     {DType::kBool, "bool", 1}};
  for (const auto& [type, text, size] : types) {
    EXPECT_EQ(name(type), text);
    EXPECT_EQ(size_of(type), size);
    EXPECT_EQ(parse_dtype(text).value(), type);
  }
  EXPECT_EQ(parse_dtype("float64").error().message,
            "[program] a dtype of float32, float16, bfloat16, int64, int32, bool, got 'float64'");
  EXPECT_EQ(parse_storage("int4").error().message,
            "[program] a storage of plain, float16, bfloat16, ternary, int8, got 'int4'");
  EXPECT_EQ(parse_exactness("near").error().message,
            "[program] an exactness of same_kernel, ieee_exact, bounded, got 'near'");
}

// Two layers of attention with states; q [batch, 2, tokens, 4], k and v [batch, 1, tokens, 4 and 3]; a half of a constant, a bool one.
// values: 0 q, 1 k, 2 v, 3 keys, 4 values, 5 first, 6 half, 7 y, 8 keys2, 9 values2, 10 second, 11 which, 12 wide
constexpr size_t kKeys = 3, kHalf = 6, kKeys2 = 8;
Program decoder() {
  const Attributes scores{{"causal", int64_t{1}}, {"scale", 0.5}};
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 100), context = b.symbol("context");
  b.declare({"context", 1, 100, true});
  const ValueId q = b.input("q", {kBatch, 2, tokens, 4}), k = b.input("k", {kBatch, 1, tokens, 4}),
                v = b.input("v", {kBatch, 1, tokens, 3}), none = kNone;
  const ValueId keys = b.state("keys", {kBatch, 1, context, 4}), values = b.state("values", {kBatch, 1, context, 3});
  const ValueId first = b.node(Op::attention, "first", {q, k, v, none, keys, values}, scores).value();
  const ValueId half = b.halves("half", {4, 3}, std::vector<uint16_t>(12, 0x3C00), Storage::kFloat16);
  const ValueId y = b.node(Op::linear, "y", {first, half}).value();
  const ValueId keys2 = b.state("keys2", {kBatch, 1, context, 4}), values2 = b.state("values2", {kBatch, 1, context, 3});
  const ValueId second = b.node(Op::attention, "second", {y, k, v, none, keys2, values2}, scores).value();
  const ValueId which = b.raw("which", DType::kBool, {2}, {0, 1});
  const ValueId wide = b.node(Op::cast, "wide", {which}, {{"dtype", std::string("float32")}}).value();
  return b.finish({{"second", second}, {"wide", wide}}).value();
}

TEST(Verify, FindsWhatIsWrongWithTypesSymbolsAndStates) {
  struct Case {
    const char* message;
    std::function<void(Program&)> break_it;
  };
  static const std::vector<uint16_t> nan_half(12, 0x7E00), short_half(5, 0);
  static const std::vector<float> floats(12, 1.0F);
  static const std::vector<uint8_t> two{0, 2}, five(5, 1);
  const Dim tokens = Dim::of_symbol(1), context = Dim::of_symbol(2);
  const auto set_shape = [](Program& p, size_t value, size_t at, Dim to) { p.values[value].shape[at] = to; };
  const Case cases[] = {
      {"[verify] 1 to 8 symbols, the batch first, got 0", [](Program& p) { p.symbols.clear(); }},
      {"[verify] 1 to 8 symbols, the batch first, got 9", [](Program& p) { p.symbols.resize(9, {"s"}); }},
      {"[verify] unique names of symbols, got ''", [](Program& p) { p.symbols[1].name = ""; }},
      {"[verify] unique names of symbols, got 'batch'", [](Program& p) { p.symbols[1].name = "batch"; }},
      {"[verify] unique names of symbols, got '2'", [](Program& p) { p.symbols[1].name = "2"; }},
      {"[verify] unique names of symbols, got 'a*b'", [](Program& p) { p.symbols[1].name = "a*b"; }},
      {"[verify] a range inside 1 to 2^40, from 0 for the batch, got 0 to 100 (symbol=tokens)",
       [](Program& p) { p.symbols[1].min = 0; }},
      {"[verify] a range inside 1 to 2^40, from 0 for the batch, got 1 to 0 (symbol=tokens)",
       [](Program& p) { p.symbols[1].max = 0; }},
      {"[verify] a range inside 1 to 2^40, from 0 for the batch, got -1 to 1099511627776 (symbol=batch)",
       [](Program& p) { p.symbols[0].min = -1; }},
      {"[verify] a range inside 1 to 2^40, from 0 for the batch, got 1 to 1099511627777 (symbol=context)",
       [](Program& p) { p.symbols[2].max = kMaxElements + 1; }},
      {"[verify] one symbol that is the context of 4 states, none without states, got 0",
       [](Program& p) { p.symbols[2].is_context = false; }},
      {"[verify] one symbol that is the context of 4 states, none without states, got 2",
       [](Program& p) { p.symbols[1].is_context = true; }},
      {"[verify] symbols that are declared, got [batch, 2, s5, 4] (value=q)",
       [&](Program& p) { set_shape(p, 0, 2, Dim::of_symbol(5)); }},
      {"[verify] constants of fixed shape, got [4, tokens] (value=half)",
       [&](Program& p) { set_shape(p, kHalf, 1, tokens); }},
      {"[verify] storage float16 for a float32 constant, got an input of float32 (value=q)",
       [](Program& p) { p.values[0].storage = Storage::kFloat16; }},
      {"[verify] storage int8 for a float32 constant, got a state of float32 (value=keys)",
       [](Program& p) { p.values[kKeys].storage = Storage::kInt8; }},
      {"[verify] storage float16 for a float32 constant, got a constant of int64 (value=half)",
       [](Program& p) { p.values[kHalf].dtype = DType::kInt64; }},
      {"[verify] data of a float32 constant in storage plain, got floats of 16 bits (value=half)",
       [](Program& p) { p.values[kHalf].storage = Storage::kPlain; }},
      {"[verify] data of a float32 constant in storage float16, got floats (value=half)",
       [](Program& p) { p.constants[0].data = FloatData(floats); }},
      {"[verify] constants that are numbers, got float16 of bits 0x7e00 (value=half, index=0)",
       [](Program& p) { p.constants[0].data = HalfData{nan_half}; }},
      {"[verify] 12 floats for [4, 3], got 5 (value=half)", [](Program& p) { p.constants[0].data = HalfData{short_half}; }},
      {"[verify] bool values of 0 and 1, got 2 (value=which, index=1)",
       [](Program& p) { p.constants[1].data = RawData{two}; }},
      {"[verify] 2 elements for [2], got 5 (value=which)", [](Program& p) { p.constants[1].data = RawData{five}; }},
      {"[verify] whole elements of int32, got 5 bytes (value=which)",
       [](Program& p) {
         p.values[11].dtype = DType::kInt32;
         p.constants[1].data = RawData{five};
       }},
      {"[verify] states that one node reads, got 'keys' again (node=second)",
       [](Program& p) { p.nodes[2].inputs[4] = p.nodes[0].inputs[4]; }},
      {"[verify] 4 states listed, got 3", [](Program& p) { p.states.pop_back(); }},
      {"[verify] state values as states, each once, got value 0", [](Program& p) { p.states[0] = 0; }},
      {"[verify] a node that reads each of 4 states, got 2",
       [](Program& p) { p.nodes[2].inputs[4] = p.nodes[2].inputs[5] = kNone; }},
      {"[attention] states of keys and of values, got one of them (node=second)",
       [](Program& p) { p.nodes[2].inputs[5] = kNone; }},
      {"[verify] a float32 state of numbers, the batch and one context, got float32[batch, 1, tokens, 4] (value=keys)",
       [&](Program& p) { set_shape(p, kKeys, 2, tokens); }},
      {"[verify] a float32 state of numbers, the batch and one context, got float32[batch, 1, 2*context, 4] (value=keys)",
       [&](Program& p) { set_shape(p, kKeys, 2, with_factor(context, 2)); }},
      {"[verify] a float32 state of numbers, the batch and one context, got bfloat16[batch, 1, context, 4] (value=keys)",
       [](Program& p) { p.values[kKeys].dtype = DType::kBFloat16; }},
      {"[attention] causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got "
       "[batch, 1, context, 5], [batch, 1, context, 3] for [batch, 1, tokens, 4], [batch, 1, tokens, 3] (node=first)",
       [&](Program& p) { set_shape(p, kKeys, 3, Dim(5)); }},
      {"[attention] causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got "
       "[batch, 1, context, 4], [batch, 1, context, 3] for [batch, 1, tokens, 4], [batch, 1, tokens, 3] (node=first)",
       [](Program& p) { p.nodes[0].attributes["causal"] = int64_t{0}; }},
      // A state would hold no positions, but the context as another of its sizes.
      {"[attention] causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got "
       "[context, 1, 7, 4], [context, 1, 7, 3] for [context, 1, tokens, 4], [context, 1, tokens, 3] (node=first)",
       [&](Program& p) {
         for (const size_t value : {0U, 1U, 2U, 3U, 4U, 8U, 9U}) set_shape(p, value, 0, context);
         for (const size_t value : {3U, 4U, 8U, 9U}) set_shape(p, value, 2, Dim(7));
       }},
      // Each run would append all positions once more.
      {"[attention] causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got "
       "[batch, 1, context, 4], [batch, 1, context, 3] for [batch, 1, context, 4], [batch, 1, context, 3] (node=first)",
       [&](Program& p) {
         for (const size_t value : {0U, 1U, 2U}) set_shape(p, value, 2, context);
       }},
      {"[verify] a state as input 'k_state', got 'k' (node=first)", [](Program& p) { p.nodes[0].inputs[4] = 1; }},
      {"[verify] a float32 activation as input 'q', got 'keys' (node=first)",
       [](Program& p) { p.nodes[0].inputs[0] = kKeys; }},
      {"[verify] an activation or a constant that is no weight of integers as input 'x', got 'keys' (node=wide)",
       [](Program& p) { p.nodes[3].inputs[0] = kKeys; }},
      {"[verify] unique names of outputs, got 'second'", [](Program& p) { p.outputs[1].name = "second"; }},
      {"[verify] unique names of outputs, got ''", [](Program& p) { p.outputs[1].name = ""; }},
      {"[verify] results of nodes as outputs, got value 3", [](Program& p) { p.outputs[1].value = kKeys; }},
      {"[verify] 1 outputs, got 2 (node=wide)", [](Program& p) { p.nodes[3].outputs.push_back(p.nodes[3].outputs[0]); }},
      {"[verify] attribute 'scale' of attention, a float, got an integer (node=first)",
       [](Program& p) { p.nodes[0].attributes["scale"] = int64_t{1}; }},
  };
  ASSERT_TRUE(verify(decoder()).ok()) << verify(decoder()).error().message;
  for (const Case& c : cases) {
    Program p = decoder();
    c.break_it(p);
    const Status status = verify(p);
    ASSERT_FALSE(status.ok()) << c.message;
    EXPECT_EQ(status.error().message, c.message);
  }
}

TEST(Verify, NodesAppendTheSamePositions) {
  const Attributes scores{{"causal", int64_t{1}}, {"scale", 0.5}};
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens"), context = b.symbol("context");
  b.declare({"context", 1, 100, true});
  std::vector<ValueId> outputs;
  for (const auto& [name, size] : {std::pair<std::string, Dim>{"all", tokens}, {"one", Dim(1)}}) {
    const ValueId q = b.input(name + ".q", {kBatch, 1, size, 2}), none = kNone;
    const ValueId keys = b.state(name + ".keys", {kBatch, 1, context, 2}),
                  values = b.state(name + ".values", {kBatch, 1, context, 2});
    outputs.push_back(b.node(Op::attention, name, {q, q, q, none, keys, values}, scores).value());
  }
  EXPECT_EQ(b.finish(outputs).error().message,
            "[verify] tokens positions that each node appends to its states, got 1 (node=one)");
}

// Steps of static activations are at least 1e-30 in whatever storage: they are divided by.
TEST(Verify, StepsInSixteenBits) {
  const auto error_of = [](uint16_t bits, Storage storage) -> std::string {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 4}), w = b.ternary("w", {1, 4}, {0b01010101}, {1.0F}), none = kNone;
    const ValueId step = b.halves("step", {1}, {bits}, storage);
    const auto y = b.node(Op::ternary_linear, "fc", {x, w, none, step}, {{"activation", std::string("int8_static")}});
    if (!y.ok()) return y.error().message;
    const auto p = b.finish({*y});
    return p.ok() ? "" : p.error().message;
  };
  EXPECT_EQ(error_of(0x3C00, Storage::kFloat16), "");
  EXPECT_EQ(error_of(0x3F80, Storage::kBFloat16), "");
  EXPECT_EQ(error_of(0x0000, Storage::kFloat16), "[verify] act_scale of at least 1e-30, got 0 (node=fc)");
  EXPECT_EQ(error_of(0xBF80, Storage::kBFloat16), "[verify] act_scale of at least 1e-30, got -1 (node=fc)");
}

// What is true of some sizes alone is refused: a batch may be 0, tokens 1.
TEST(ShapeRules, HoldForAllSizesOfSymbols) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 10), frames = b.symbol("frames", 4, 8);
  const ValueId x = b.input("x", {kBatch, tokens, with_factor(frames, 3)}), by_batch = b.input("by batch", {2, kBatch});
  const auto slice = [&](ValueId of, int64_t dim, int64_t start, Dim length) -> std::string {
    static int count = 0;
    const auto y =
        b.node(Op::slice, fmt::format("s{}", count++), {of}, {{"dim", dim}, {"start", start}, {"length", Shape{length}}});
    return y.ok() ? b.peek().show(b.peek().value(*y).shape) : y.error().message.substr(0, y.error().message.find(" (node"));
  };
  EXPECT_EQ(slice(x, 1, 0, Dim(1)), "[batch, 1, 3*frames]");
  EXPECT_EQ(slice(x, 1, -1, Dim(1)), "[batch, 1, 3*frames]");
  EXPECT_EQ(slice(x, 1, 0, tokens), "[batch, tokens, 3*frames]");
  EXPECT_EQ(slice(x, 2, 0, frames), "[batch, tokens, frames]");
  EXPECT_EQ(slice(x, 2, 4, frames), "[batch, tokens, frames]");
  EXPECT_EQ(slice(x, 2, -12, Dim(12)), "[batch, tokens, 12]");
  EXPECT_EQ(slice(x, 2, 8, frames), "[batch, tokens, frames]") << "of 12 to 24, 4 to 8";
  EXPECT_EQ(slice(x, 2, 9, frames),
            "[slice] a part of dimension 2 of [batch, tokens, 3*frames], got frames from 9 in steps of 1");
  EXPECT_EQ(slice(x, 2, 9, *sum(frames, Dim(-2))), "[batch, tokens, frames-2]");
  EXPECT_EQ(slice(x, 2, 1, *sum(with_factor(frames, 3), -1)), "[batch, tokens, 3*frames-1]");
  EXPECT_EQ(slice(x, 2, 2, *sum(with_factor(frames, 3), -1)),
            "[slice] a part of dimension 2 of [batch, tokens, 3*frames], got 3*frames-1 from 2 in steps of 1");
  EXPECT_EQ(slice(x, 1, 0, Dim(2)),
            "[slice] a part of dimension 1 of [batch, tokens, 3*frames], got 2 from 0 in steps of 1");
  EXPECT_EQ(slice(x, 1, 1, Dim(1)),
            "[slice] a part of dimension 1 of [batch, tokens, 3*frames], got 1 from 1 in steps of 1");
  EXPECT_EQ(slice(x, 0, 0, Dim(1)),
            "[slice] a part of dimension 0 of [batch, tokens, 3*frames], got 1 from 0 in steps of 1");
  EXPECT_EQ(slice(x, 0, -1, Dim(1)),
            "[slice] a part of dimension 0 of [batch, tokens, 3*frames], got 1 from -1 in steps of 1");
  EXPECT_EQ(slice(x, 1, INT64_MIN, Dim(1)), "[slice] a start from -2^40 to 2^40, got -9223372036854775808");
  EXPECT_EQ(b.node(Op::mean, "m", {by_batch}).error().message, "[mean] values within samples, got batch (node=m)");
  EXPECT_TRUE(b.node(Op::mean, "frames", {x}).ok());
}

TEST(ShapeRules, WindowsOfSymbolsLeaveSizesThatFollowFromThem) {
  ProgramBuilder b;
  const Dim height = b.symbol("height");
  const ValueId x = b.input("x", {kBatch, 1, with_factor(height, 32)});
  const auto conv = [&](int64_t kernel, int64_t stride, int64_t padding, int64_t transposed) -> std::string {
    static int count = 0;
    const ValueId w = b.floats(fmt::format("w{}", count), {1, kernel, 1}, std::vector<float>(static_cast<size_t>(kernel)));
    const auto y = b.node(Op::conv, fmt::format("c{}", count++), {x, w},
                          {{"stride", Sizes{stride}},
                           {"padding", Sizes{padding}},
                           {"dilation", Sizes{1}},
                           {"groups", int64_t{1}},
                           {"transposed", transposed},
                           {"output_padding", Sizes{0}}});
    return y.ok() ? b.peek().show(b.peek().value(*y).shape) : y.error().message.substr(0, y.error().message.find(" (node"));
  };
  EXPECT_EQ(conv(3, 1, 1, 0), "[batch, 1, 32*height]");
  EXPECT_EQ(conv(3, 2, 1, 0), "[batch, 1, 16*height]");
  EXPECT_EQ(conv(32, 32, 0, 0), "[batch, 1, height]");
  EXPECT_EQ(conv(2, 2, 0, 1), "[batch, 1, 64*height]");
  EXPECT_EQ(conv(2, 1, 0, 0), "[batch, 1, 32*height-1]");
  EXPECT_EQ(conv(3, 3, 1, 0), "[batch, 1, (32*height+2)/3]");
  EXPECT_EQ(conv(3, 2, 0, 1), "[batch, 1, 64*height+1]");
  EXPECT_EQ(b.peek().symbols[1].min, 1);
  EXPECT_EQ(conv(100, 2, 0, 0), "[batch, 1, 16*height-49]");
  EXPECT_EQ(b.peek().symbols[1].min, 4) << "a window needs an image of its size";
}

// Independent of how they are written: sizes of sums and floors at many sizes of symbols.
TEST(Dim, OfSumsIsWhatIntegersSay) {
  const Symbols symbols{{"batch", 0}, {"tokens"}, {"frames"}};
  std::mt19937 generator(3);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(generator() % static_cast<uint64_t>(high - low + 1));
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<Dim> dims{Dim::of_symbol(1)};
    SymbolSizes sizes = kOnes;
    sizes[1] = between(20, 90), sizes[2] = between(20, 90);
    std::vector<int64_t> numbers{sizes[1]};
    for (int step = 0; step < 4; ++step) {
      const int64_t offset = between(-9, 9), divisor = between(1, 5), factor = between(1, 4);
      std::optional<Dim> next;
      int64_t expected = 0;
      switch (between(0, 3)) {
        case 0:
          next = quotient(dims.back(), offset, divisor);
          expected =
              static_cast<int64_t>(std::floor(static_cast<double>(numbers.back() + offset) / static_cast<double>(divisor)));
          break;
        case 1:
          next = sum(dims.back(), dims.front(), factor);
          expected = numbers.back() + factor * numbers.front();
          break;
        case 2:
          next = sum(dims.back(), Dim::of_symbol(2), factor);
          expected = numbers.back() + factor * sizes[2];
          break;
        default:
          next = dims.back() * Dim(factor);
          expected = numbers.back() * factor;
      }
      if (!next || expected < 1) break;  // too deep, or no size
      ASSERT_EQ(next->at(sizes), expected) << to_string(*next, symbols);
      const auto read = parse_dim(to_string(*next, symbols), symbols);
      ASSERT_TRUE(read.ok()) << to_string(*next, symbols);
      ASSERT_EQ(*read, *next) << to_string(*next, symbols);
      dims.push_back(*next), numbers.push_back(expected);
    }
  }
}

TEST(Dim, OfSumsHasOneForm) {
  const Symbols symbols{{"batch", 0}, {"tokens"}, {"frames"}};
  const Dim tokens = Dim::of_symbol(1), frames = Dim::of_symbol(2);
  const auto text = [&](const std::optional<Dim>& dim) { return dim ? to_string(*dim, symbols) : "none"; };
  EXPECT_EQ(text(sum(tokens, 1)), "tokens+1");
  EXPECT_EQ(text(sum(*sum(tokens, 1), -1)), "tokens");
  EXPECT_EQ(text(sum(with_factor(tokens, 6), 4)), "2*(3*tokens+2)");
  EXPECT_EQ(text(sum(with_factor(*sum(tokens, 1), 2), -2)), "2*tokens");
  EXPECT_EQ(text(sum(frames, tokens)), "tokens+frames");
  EXPECT_EQ(text(sum(tokens, tokens, -1)), "0");
  EXPECT_EQ(text(sum(tokens, frames, -1)), "none") << "a size that falls as a symbol grows";
  EXPECT_EQ(text(quotient(tokens, 1, 2)), "(tokens+1)/2");
  EXPECT_EQ(text(quotient(*quotient(tokens, 1, 2), 1, 2)), "(tokens+3)/4");
  EXPECT_EQ(text(quotient(with_factor(tokens, 4), 3, 2)), "2*tokens+1");
  EXPECT_EQ(text(sum(*quotient(tokens, 1, 2), 5)), "(tokens+11)/2");
  EXPECT_EQ(text(sum(with_factor(*quotient(tokens, 0, 2), 2), 1)), "2*(tokens/2)+1");
  EXPECT_EQ(text(kBatch * *sum(tokens, 1) * *quotient(frames, 0, 3)), "batch*(tokens+1)*(frames/3)");
  EXPECT_EQ(text(divided(kBatch * with_factor(*sum(tokens, 1), 6), with_factor(*sum(tokens, 1), 3))), "2*batch");
  EXPECT_EQ(text(divided(*sum(tokens, 1), tokens)), "none");
  EXPECT_EQ(text(sum(tokens, kMaxElements + 1)), "none");
  std::optional<Dim> deep = tokens;
  for (size_t i = 0; i <= kMaxDepth && deep; ++i) deep = sum(with_factor(*quotient(*deep, 0, 3), 2), 1);
  EXPECT_EQ(text(deep), "none") << "deeper than a reader goes";
  const Symbols signs{{"batch", 0}, {"seq-len"}, {"seq"}};  // names that files had before there were sums
  EXPECT_EQ(parse_dim("2*seq-len+1", signs).value(), *sum(with_factor(Dim::of_symbol(1), 2), 1));
  EXPECT_EQ(parse_dim("seq-2", signs).value(), *sum(Dim::of_symbol(2), -2));
}

// Texts of files, which may be anything: what can be read is written in one way, which is read as the same size.
TEST(Dim, OfAnyTextIsReadOrRefused) {
  const Symbols symbols{{"batch", 0}, {"t"}, {"u"}};
  constexpr std::string_view kParts[] = {
      "t", "u", "batch", "+", "-", "*", "/", "(", ")", "^", "1", "2", "3", "12", "1099511627776", "99999999999999999999"};
  std::mt19937 generator(5);
  int read = 0;
  for (int round = 0; round < 200000; ++round) {
    std::string text;
    for (size_t count = 1 + generator() % 12; count > 0; --count) text += kParts[generator() % std::size(kParts)];
    const auto dim = parse_dim(text, symbols);
    if (!dim.ok()) continue;
    ++read;
    const std::string written = to_string(*dim, symbols);
    const auto again = parse_dim(written, symbols);
    ASSERT_TRUE(again.ok() || dim->factor < 0) << text << " as " << written;
    if (again.ok()) {
      ASSERT_EQ(*again, *dim) << text << " as " << written;
    }
    EXPECT_GE(dim->at(kOnes), dim->is_number() ? -kManyElements : 0) << text;
  }
  EXPECT_GT(read, 2000);
  EXPECT_FALSE(parse_dim(std::string(100000, '('), symbols).ok());
  std::string deep = "t";
  for (int i = 0; i < 40; ++i) deep = "2*((" + deep + ")/3)+1";
  EXPECT_FALSE(parse_dim(deep, symbols).ok());
}

// What is_within() says is true at every size of the ranges.
TEST(Dim, IsWithinAnotherAtAllSizes) {
  const Symbols symbols{{"batch", 0}, {"tokens", 3, 9}, {"frames", 1, 6}};
  std::mt19937 generator(4);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(generator() % static_cast<uint64_t>(high - low + 1));
  };
  const auto some = [&] {
    Dim dim = with_factor(Dim::of_symbol(static_cast<size_t>(between(1, 2))), between(1, 3));
    if (between(0, 1) == 0) dim = *sum(dim, between(-2, 4));
    if (between(0, 1) == 0) dim = *quotient(dim, between(0, 4), between(1, 3));
    return between(0, 4) == 0 ? Dim(between(1, 12)) : dim;
  };
  int said = 0, true_of_all = 0;
  for (int round = 0; round < 3000; ++round) {
    const Dim a = some(), b = some();
    const int64_t times = between(1, 2), offset = between(-4, 4);
    bool holds = true;
    for (int64_t tokens = 3; tokens <= 9; ++tokens)
      for (int64_t frames = 1; frames <= 6; ++frames) {
        SymbolSizes sizes = kOnes;
        sizes[1] = tokens, sizes[2] = frames;
        if (a.at(sizes) < 1 || b.at(sizes) < 1) continue;
        holds = holds && times * a.at(sizes) + offset <= b.at(sizes);
      }
    const bool found = is_within(a, times, offset, b, symbols);
    ASSERT_FALSE(found && !holds) << to_string(a, symbols) << " * " << times << " + " << offset << " in "
                                  << to_string(b, symbols);
    said += found, true_of_all += holds;
  }
  EXPECT_GT(said * 10, true_of_all * 7) << "of most it is known";
}

// A floor within another one: what is around an image that is padded on both sides to a multiple is not cut off.
TEST(Dim, FloorsWithinFloorsAreBounded) {
  const Symbols symbols{{"batch", 0}, {"height", 1}};
  const Dim height = Dim::of_symbol(1), multiple = with_factor(*quotient(height, 7, 8), 8);
  const Dim middle = *quotient(*sum(height, multiple), 0, 2);  // the rows in front of its end
  EXPECT_EQ(to_string(middle, symbols), "(height+8*((height+7)/8))/2");
  EXPECT_TRUE(is_within(middle, 1, 0, multiple, symbols));
  EXPECT_FALSE(is_within(middle, 1, 1, multiple, symbols)) << "at height 8";
  EXPECT_TRUE(is_within(height, 1, 0, middle, symbols));
  EXPECT_FALSE(is_within(height, 1, 1, middle, symbols));
}

TEST(Verify, SumsAreOfSamplesAndPositive) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 3);
  const ValueId x = b.input("x", {kBatch, tokens});
  const ValueId y =
      b.node(Op::slice, "y", {x},
             {{"dim", int64_t{1}}, {"start", int64_t{2}}, {"length", Shape{*sum(tokens, -2)}}, {"step", int64_t{1}}})
          .value();
  const Program good = b.finish({y}).value();
  const auto error_of = [&](const std::function<void(Program&)>& change) {
    Program p = good;
    change(p);
    const Status status = verify(p);
    return status.ok() ? std::string() : status.error().message;
  };
  EXPECT_EQ(error_of([](Program& p) { p.symbols[1].min = 2; }),
            "[verify] sizes of at least 1, got tokens-2 at the least of its symbols (value=y)");
  EXPECT_EQ(error_of([](Program& p) { p.values[0].shape[1] = *sum(kBatch, 1); }),
            "[verify] sums without the batch and the context, got batch+1 (value=x)");
  EXPECT_EQ(error_of([](Program& p) { p.symbols.push_back({"tokens-2"}); }),
            "[verify] names of symbols that can be told from sums, got tokens-2 (value=y)");
}

TEST(ShapeRules, SplitAndCatOfManyParts) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens");
  const ValueId x = b.input("x", {kBatch, with_factor(tokens, 6), 5}, DType::kBool), y = b.input("y", {kBatch, tokens, 5}),
                z = b.input("z", {kBatch, 4, 6}, DType::kBool), four = b.input("four", {kBatch, 4, 5}, DType::kBool);
  const auto parts =
      b.nodes(Op::split, "parts", {x},
              {{"dim", int64_t{1}}, {"sizes", Shape{tokens, with_factor(tokens, 2), with_factor(tokens, 3)}}});
  ASSERT_TRUE(parts.ok());
  const char* names[] = {"parts", "parts:1", "parts:2"};
  for (size_t i = 0; i < 3; ++i) {
    const Value& part = b.peek().value((*parts)[i]);
    EXPECT_EQ(part.name, names[i]);
    EXPECT_EQ(part.dtype, DType::kBool);
    EXPECT_EQ(part.shape, (Shape{kBatch, with_factor(tokens, static_cast<int64_t>(i) + 1), 5}));
  }
  const Attributes dim{{"dim", int64_t{1}}};
  const auto back = b.node(Op::cat, "back", {(*parts)[2], (*parts)[0], (*parts)[1]}, dim);
  EXPECT_EQ(b.peek().value(back.value()).shape, b.peek().value(x).shape);
  const auto split = [&](const Shape& sizes) {
    return b.nodes(Op::split, "n", {x}, {{"dim", int64_t{1}}, {"sizes", sizes}}).error().message;
  };
  EXPECT_EQ(split({tokens, tokens}), "[split] sizes that add up to 6*tokens, got [tokens, tokens] (node=n)");
  EXPECT_EQ(split({}), "[split] sizes that add up to 6*tokens, got [] (node=n)");
  EXPECT_EQ(split({with_factor(tokens, 6), Dim(0)}), "[split] sizes that add up to 6*tokens, got [6*tokens, 0] (node=n)");
  EXPECT_EQ(split({Dim(6)}), "[split] sizes that add up to 6*tokens, got [6] (node=n)");
  EXPECT_EQ(
      b.node(Op::cat, "n", {x, y}, dim).error().message,
      "[cat] parts of one dtype that differ in dimension 1 alone, got bool[batch, 6*tokens, 5] and float32[batch, tokens, "
      "5] (node=n)");
  EXPECT_EQ(b.node(Op::cat, "n", {x, z}, dim).error().message,
            "[cat] parts of one dtype that differ in dimension 1 alone, got bool[batch, 6*tokens, 5] and bool[batch, 4, 6] "
            "(node=n)");
  EXPECT_EQ(b.peek().show(b.peek().value(b.node(Op::cat, "more", {x, four}, dim).value()).shape),
            "[batch, 2*(3*tokens+2), 5]");
  EXPECT_EQ(b.node(Op::cat, "n", {}, dim).error().message, "[verify] 1 inputs of cat, got 0 (node=n)");
}

}  // namespace
}  // namespace bitlab::program
