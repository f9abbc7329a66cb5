// Sizes that differ from run to run, inputs and outputs by name and type: a program with symbols gives the bits of one that is made for the sizes.
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::runtime {
namespace {

using kernels::test::packed;
using kernels::test::random_floats;
using kernels::test::random_int8;
using kernels::test::same_bits;
using program::Attributes;
using program::Dim;
using program::DType;
using program::kBatch;
using program::kNone;
using program::Op;
using program::Program;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;
using program::with_factor;
using test::floats_of;
using test::session_of;

// ids and mask [batch, tokens] - a table - attention that the mask restricts - a ternary product of all tokens - logits [batch, tokens, 4] and
// their means over tokens [batch, 4].
struct TextModel {
  static constexpr int64_t kWords = 9, kWidth = 6, kClasses = 4;
  std::vector<float> table = random_floats(kWords * kWidth, 1), scale = random_floats(kClasses, 2),
                     bias = random_floats(kClasses, 3);
  std::vector<int8_t> t = random_int8(kClasses * kWidth, 4, -1, 1);

  // For these sizes: symbols or numbers.
  Program program(ProgramBuilder b, Dim batch, Dim tokens) const {
    const ValueId ids = b.input("ids", {batch, tokens}, DType::kInt64),
                  mask = b.input("mask", {batch, tokens}, DType::kBool);
    const ValueId x = *b.node(Op::embedding, "embedding", {ids, b.floats("table", {kWords, kWidth}, table)});
    ValueId h = *b.node(Op::reshape, "parts", {x}, {{"shape", Shape{batch, tokens, 2, 3}}});
    h = *b.node(Op::permute, "heads", {h}, {{"dims", Sizes{0, 2, 1, 3}}});
    const ValueId seen = *b.node(Op::reshape, "seen", {mask}, {{"shape", Shape{batch, 1, 1, tokens}}});
    h = *b.node(Op::attention, "attention", {h, h, h, seen}, {{"causal", int64_t{0}}, {"scale", 0.6}});
    h = *b.node(Op::permute, "turned", {h}, {{"dims", Sizes{0, 2, 1, 3}}});
    const ValueId rows = *b.node(Op::reshape, "rows", {h}, {{"shape", Shape{batch * tokens, kWidth}}});
    const ValueId w = b.ternary("w", {kClasses, kWidth}, packed(t, kClasses, kWidth), scale);
    ValueId y = *b.node(Op::ternary_linear, "product", {rows, w, b.floats("bias", {kClasses}, bias)}, test::kInt8);
    y = *b.node(Op::reshape, "logits", {y}, {{"shape", Shape{batch, tokens, kClasses}}});
    ValueId mean = *b.node(Op::permute, "columns", {y}, {{"dims", Sizes{0, 2, 1}}});
    mean = *b.node(Op::mean, "mean", {mean});
    return *b.finish({{"logits", y}, {"pooled", mean}, {"attended", rows}});
  }
  Program symbolic() const {
    ProgramBuilder b;
    const Dim tokens = b.symbol("tokens", 1, 40);
    return program(std::move(b), kBatch, tokens);
  }
};

// One batch for it: the first token is seen, others at random.
struct Text {
  int64_t batch, tokens;
  std::vector<int64_t> ids;
  std::vector<uint8_t> mask;

  Text(int64_t samples, int64_t count, uint32_t seed) : batch(samples), tokens(count) {
    for (const int8_t id : random_int8(batch * tokens, seed, 0, TextModel::kWords - 1)) ids.push_back(id);
    for (const int8_t seen : random_int8(batch * tokens, seed + 1, 0, 1)) mask.push_back(static_cast<uint8_t>(seen));
    for (int64_t n = 0; n < batch; ++n) mask[static_cast<size_t>(n * tokens)] = 1;
  }
  TensorView ids_view() const { return {{batch, tokens}, ids.data()}; }
  TensorView mask_view() const { return {{batch, tokens}, DType::kBool, mask.data()}; }
  std::vector<TensorView> views() const { return {ids_view(), mask_view()}; }
};

// What attention makes of it, in double: [batch * tokens, width].
std::vector<double> attended(const TextModel& model, const Text& text) {
  const auto at = [&](int64_t n, int64_t i, int64_t column) {
    const auto word = static_cast<size_t>(text.ids[static_cast<size_t>(n * text.tokens + i)]);
    return static_cast<double>(model.table[word * TextModel::kWidth + static_cast<size_t>(column)]);
  };
  std::vector<double> rows;
  for (int64_t n = 0; n < text.batch; ++n)
    for (int64_t i = 0; i < text.tokens; ++i)
      for (int64_t column = 0; column < TextModel::kWidth; ++column) {
        const int64_t first = column / 3 * 3;  // of the column's head
        double sum = 0, total = 0;
        for (int64_t j = 0; j < text.tokens; ++j) {
          if (text.mask[static_cast<size_t>(n * text.tokens + j)] == 0) continue;
          double score = 0;
          for (int64_t d = first; d < first + 3; ++d) score += at(n, i, d) * at(n, j, d);
          const double weight = std::exp(0.6 * score);
          sum += weight, total += weight * at(n, j, column);
        }
        rows.push_back(total / sum);
      }
  return rows;
}

TEST(Symbols, ABatchOfTextOfAnyLength) {
  const TextModel model;
  for (const int threads : {1, 3}) {
    const auto session = session_of(model.symbolic(), threads);
    for (const auto& [batch, tokens] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {2, 33}, {5, 3}, {1, 40}, {3, 5}}) {
      const Text text(batch, tokens, static_cast<uint32_t>(batch * 100 + tokens));
      const auto outputs = session->run(text.views()).value();
      EXPECT_EQ(outputs[0].shape, (std::vector<int64_t>{batch, tokens, 4}));
      EXPECT_EQ(outputs[1].shape, (std::vector<int64_t>{batch, 4}));
      EXPECT_EQ(outputs[2].shape, (std::vector<int64_t>{batch * tokens, 6}));
      const auto fixed = session_of(model.program({}, batch, tokens));
      const auto expected = fixed->run(text.views()).value();
      for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(floats_of(outputs[i]), floats_of(expected[i]))) << i;
      // Against definitions: attention in double, the product by the oracle, the mean in double.
      const auto rows = floats_of(outputs[2]), logits = floats_of(outputs[0]), pooled = floats_of(outputs[1]);
      const std::vector<double> reference = attended(model, text);
      for (size_t i = 0; i < rows.size(); ++i) ASSERT_NEAR(rows[i], reference[i], 1e-5);
      EXPECT_TRUE(same_bits(logits, ternary::oracle::linear(rows, batch * tokens, model.t, TextModel::kClasses,
                                                            TextModel::kWidth, model.scale, model.bias)));
      for (int64_t n = 0; n < batch; ++n)
        for (int64_t c = 0; c < 4; ++c) {
          double sum = 0;
          for (int64_t i = 0; i < tokens; ++i) sum += logits[static_cast<size_t>((n * tokens + i) * 4 + c)];
          EXPECT_NEAR(pooled[static_cast<size_t>(n * 4 + c)], sum / static_cast<double>(tokens), 1e-5);
        }
    }
    EXPECT_EQ(session->plans_made(), 5) << "one for each pair of sizes";
  }
}

// 32 height by 32 width pixels - halved twice - and doubled.
Program image_model(ProgramBuilder b, Dim batch, Dim height, Dim width) {
  const Attributes pool{
      {"kernel_size", Sizes{2, 2}}, {"stride", Sizes{2, 2}}, {"padding", Sizes{0, 0}}, {"dilation", Sizes{1, 1}}};
  const auto window = [](int64_t stride, int64_t padding, int64_t transposed) {
    return Attributes{{"stride", Sizes{stride, stride}},  {"padding", Sizes{padding, padding}},
                      {"dilation", Sizes{1, 1}},          {"groups", int64_t{1}},
                      {"transposed", transposed},         {"output_padding", Sizes{0, 0}},
                      {"activation", std::string("int8")}};
  };
  const ValueId x =
      b.input("image", {batch, 3, with_factor(height, 32 * height.factor), with_factor(width, 32 * width.factor)});
  const ValueId down =
      b.ternary("down.weight", {5, 3, 3, 3}, packed(random_int8(135, 1, -1, 1), 5, 27), random_floats(5, 2));
  const ValueId up = b.ternary("up.weight", {2, 2, 2, 5}, packed(random_int8(40, 3, -1, 1), 2, 20), random_floats(2, 4));
  ValueId y = *b.node(Op::ternary_conv, "down", {x, down}, window(2, 1, 0));
  y = *b.node(Op::max_pool, "pool", {y}, pool);
  y = *b.node(Op::ternary_conv, "up", {y, up}, window(2, 0, 1));
  return *b.finish({{"map", y}});
}

TEST(Symbols, AnImageOfAnySize) {
  ProgramBuilder b;
  const Dim height = b.symbol("height", 1, 3), width = b.symbol("width", 1, 4);
  const auto session = session_of(image_model(std::move(b), kBatch, height, width), 2);
  for (const auto& sizes : {std::vector<int64_t>{1, 1, 1}, {2, 2, 1}, {1, 3, 2}, {3, 1, 4}}) {
    const auto x = random_floats(sizes[0] * 3 * 32 * sizes[1] * 32 * sizes[2], 5);
    const TensorView view{{sizes[0], 3, 32 * sizes[1], 32 * sizes[2]}, x.data()};
    const TensorView found = session->run({&view, 1}).value()[0];
    EXPECT_EQ(found.shape, (std::vector<int64_t>{sizes[0], 2, 16 * sizes[1], 16 * sizes[2]}));
    const auto fixed = session_of(image_model({}, sizes[0], sizes[1], sizes[2]));
    EXPECT_TRUE(same_bits(floats_of(found), floats_of(fixed->run({&view, 1}).value()[0])));
  }
  const float pixel = 0;
  const auto error_of = [&](std::vector<int64_t> shape) {
    const TensorView view{std::move(shape), &pixel};
    return session->run({&view, 1}).error().message;
  };
  EXPECT_EQ(error_of({1, 3, 33, 32}), "[session] input [batch, 3, 32*height, 32*width], got [1, 3, 33, 32] (input=image)");
  EXPECT_EQ(error_of({1, 3, 128, 32}), "[session] height from 1 to 3, got 4");
  EXPECT_EQ(error_of({1, 3, 0, 32}), "[session] height from 1 to 3, got 0");
  EXPECT_EQ(error_of({1, 3, 32, 160}), "[session] width from 1 to 4, got 5");
}

TEST(Symbols, InputsAgreeOnThem) {
  const auto session = session_of(TextModel().symbolic());
  const Text a(2, 3, 1), b(2, 4, 1), c(1, 3, 1), many(1, 41, 1);
  const auto error_of = [&](std::vector<TensorView> inputs) { return session->run(inputs).error().message; };
  EXPECT_EQ(error_of({a.ids_view(), b.mask_view()}),
            "[session] input [batch, tokens] at the tokens 3 of those before it, got [2, 4] (input=mask)");
  EXPECT_EQ(error_of({a.ids_view(), c.mask_view()}),
            "[session] input [batch, tokens] at the batch 2 of those before it, got [1, 3] (input=mask)");
  EXPECT_EQ(error_of(many.views()), "[session] tokens from 1 to 40, got 41");
  const TensorView empty_ids{{2, 0}, DType::kInt64, nullptr}, empty_mask{{2, 0}, DType::kBool, nullptr};
  EXPECT_EQ(error_of({empty_ids, empty_mask}), "[session] tokens from 1 to 40, got 0");
  EXPECT_TRUE(session->run(a.views()).ok()) << "usable after errors";
}

// Sizes that are products do not say what their symbols are; they are compared with what others say.
TEST(Symbols, ProductsAreCompared) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens");
  const ValueId x = b.input("x", {kBatch, tokens, 2}), flat = b.input("flat", {kBatch * tokens, 2});
  const ValueId rows = *b.node(Op::reshape, "rows", {x}, {{"shape", Shape{kBatch * tokens, 2}}});
  const ValueId sum = *b.node(Op::add, "sum", {rows, flat});
  const auto session =
      session_of(*b.finish({*b.node(Op::reshape, "y", {sum}, {{"shape", Shape{tokens * kBatch * Dim(2)}}})}));
  const float values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const TensorView fits[] = {{{2, 3, 2}, values}, {{6, 2}, values}}, wrong[] = {{{2, 3, 2}, values}, {{5, 2}, values}};
  const TensorView y = session->run(fits).value()[0];
  EXPECT_EQ(y.shape, (std::vector<int64_t>{12}));
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(y.as()[i], 2 * values[i]);
  EXPECT_EQ(session->run(wrong).error().message,
            "[session] input [batch*tokens, 2], which is [6, 2] here, got [5, 2] (input=flat)");
}

TEST(Names, InputsInAnyOrder) {
  const auto session = session_of(TextModel().symbolic());
  const Text text(2, 3, 7);
  std::vector<std::vector<float>> expected;
  for (const TensorView& output : session->run(text.views()).value()) expected.push_back(floats_of(output));
  const NamedView forward[] = {{"ids", text.ids_view()}, {"mask", text.mask_view()}};
  const NamedView backward[] = {{"mask", text.mask_view()}, {"ids", text.ids_view()}};
  for (const auto& inputs : {std::span<const NamedView>(forward), std::span<const NamedView>(backward)}) {
    const auto outputs = session->run(inputs).value();
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(floats_of(outputs[i]), expected[i]));
  }
  const auto signature = session->model().program().signature();
  EXPECT_EQ(
      to_string(signature),
      "(ids: int64[batch, tokens], mask: bool[batch, tokens]) -> (logits: float32[batch, tokens, 4], pooled: float32[batch, "
      "4], attended: float32[batch*tokens, 6])");
  const auto error_of = [&](std::vector<NamedView> inputs) {
    return session->run(std::span<const NamedView>(inputs)).error().message;
  };
  const NamedView ids = forward[0], mask = forward[1];
  EXPECT_EQ(error_of({}), "[session] an input called 'ids', got 0 of 0 inputs");
  EXPECT_EQ(error_of({ids}), "[session] an input called 'mask', got 0 of 1 inputs");
  EXPECT_EQ(error_of({mask, ids, mask}), "[session] an input called 'mask', got 2 of 3 inputs");
  EXPECT_EQ(error_of({ids, mask, {"masc", text.mask_view()}}),
            "[session] inputs of " + to_string(signature) + ", got 'masc' too");
  EXPECT_EQ(error_of({{"ids", text.mask_view()}, mask}), "[session] int64 values, got bool ones (input=ids)");
}

TEST(Names, OutputsAreCopiedToTheCaller) {
  const auto session = session_of(TextModel().symbolic());
  const Text text(2, 3, 7);
  std::vector<float> pooled(8, -1);
  EXPECT_EQ(session->copy_output(1, pooled.data(), 32).error().message,
            "[session] an output below 0 of a run that succeeded, got 1");
  const auto expected = floats_of(session->run(text.views()).value()[1]);
  EXPECT_EQ(session->copy_output(1, pooled.data(), 31).error().message,
            "[session] 32 bytes for [2, 4] of float32, got 31 (output=pooled)");
  EXPECT_EQ(session->copy_output(3, pooled.data(), 32).error().message,
            "[session] an output below 3 of a run that succeeded, got 3");
  EXPECT_EQ(pooled, std::vector<float>(8, -1));
  ASSERT_TRUE(session->copy_output(1, pooled.data(), 32).ok());
  EXPECT_TRUE(session->run(Text(5, 7, 8).views()).ok());
  EXPECT_TRUE(same_bits(pooled, expected)) << "it stays when the session's own memory is used again";
}

// What a cast makes of the elements, from `from` to `to`.
template <class To, class From>
std::vector<To> cast_of(const std::vector<From>& x, DType from, DType to) {
  ProgramBuilder b;
  const ValueId in = b.input("x", {kBatch}, from);
  const auto session = session_of(*b.finish({*b.node(Op::cast, "y", {in}, {{"dtype", std::string(name(to))}})}));
  const TensorView view{{static_cast<int64_t>(x.size())}, from, x.data()};
  const TensorView y = session->run({&view, 1}).value()[0];
  EXPECT_EQ(y.dtype, to);
  return {y.as<To>(), y.as<To>() + x.size()};
}

// The bits by hand, from IEEE 754 and the rule of integers.
TEST(Casts, OfFloats) {
  const std::vector<float> x{0.0F, -0.0F, 1.5F, -2.5F, 65504, 65520, 3e9F, -1e30F, NAN, INFINITY, 1e-8F, 0.1F};
  EXPECT_EQ((cast_of<int32_t>(x, DType::kFloat32, DType::kInt32)),
            (std::vector<int32_t>{0, 0, 1, -2, 65504, 65520, INT32_MAX, INT32_MIN, 0, INT32_MAX, 0, 0}));
  EXPECT_EQ((cast_of<int64_t>(x, DType::kFloat32, DType::kInt64)),
            (std::vector<int64_t>{0, 0, 1, -2, 65504, 65520, 3000000000, INT64_MIN, 0, INT64_MAX, 0, 0}));
  EXPECT_EQ((cast_of<uint8_t>(x, DType::kFloat32, DType::kBool)),
            (std::vector<uint8_t>{0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ((cast_of<uint16_t>(x, DType::kFloat32, DType::kFloat16)),
            (std::vector<uint16_t>{0x0000, 0x8000, 0x3E00, 0xC100, 0x7BFF, 0x7C00, 0x7C00, 0xFC00, 0x7E00, 0x7C00, 0x0000,
                                   0x2E66}));
  EXPECT_EQ((cast_of<uint16_t>(x, DType::kFloat32, DType::kBFloat16)),
            (std::vector<uint16_t>{0x0000, 0x8000, 0x3FC0, 0xC020, 0x4780, 0x4780, 0x4F33, 0xF14A, 0x7FC0, 0x7F80, 0x322C,
                                   0x3DCD}));
}

TEST(Casts, OfNarrowFloats) {
  const std::vector<uint16_t> half{0x3C00, 0xC580, 0x0001, 0x7BFF, 0x8000}, bfloat{0x3F80, 0xC0B0, 0x0001, 0x7F7F, 0x8000};
  EXPECT_EQ((cast_of<float>(half, DType::kFloat16, DType::kFloat32)), (std::vector<float>{1, -5.5F, 0x1p-24F, 65504, 0}));
  EXPECT_EQ((cast_of<float>(bfloat, DType::kBFloat16, DType::kFloat32)),
            (std::vector<float>{1, -5.5F, 0x1p-133F, 0x1.FEp127F, 0}));
  EXPECT_EQ((cast_of<int32_t>(half, DType::kFloat16, DType::kInt32)), (std::vector<int32_t>{1, -5, 0, 65504, 0}));
  EXPECT_EQ((cast_of<uint8_t>(half, DType::kFloat16, DType::kBool)), (std::vector<uint8_t>{1, 1, 1, 1, 0}));
  EXPECT_EQ((cast_of<uint16_t>(half, DType::kFloat16, DType::kBFloat16)),
            (std::vector<uint16_t>{0x3F80, 0xC0B0, 0x3380, 0x4780, 0x8000}));
  EXPECT_EQ((cast_of<uint16_t>(bfloat, DType::kBFloat16, DType::kFloat16)),
            (std::vector<uint16_t>{0x3C00, 0xC580, 0x0000, 0x7C00, 0x8000}));
}

TEST(Casts, OfIntegersAndBool) {
  const std::vector<int64_t> x{0, -1, 16777217, (int64_t{1} << 32) + 5, INT64_MIN};
  EXPECT_EQ((cast_of<float>(x, DType::kInt64, DType::kFloat32)),
            (std::vector<float>{0, -1, 16777216, 4294967296, -0x1p63F}));
  EXPECT_EQ((cast_of<int32_t>(x, DType::kInt64, DType::kInt32)), (std::vector<int32_t>{0, -1, 16777217, 5, 0}));
  EXPECT_EQ((cast_of<uint8_t>(x, DType::kInt64, DType::kBool)), (std::vector<uint8_t>{0, 1, 1, 1, 1}));
  const std::vector<int32_t> small{-7, 2049, INT32_MAX};
  EXPECT_EQ((cast_of<int64_t>(small, DType::kInt32, DType::kInt64)), (std::vector<int64_t>{-7, 2049, INT32_MAX}));
  EXPECT_EQ((cast_of<uint16_t>(small, DType::kInt32, DType::kFloat16)), (std::vector<uint16_t>{0xC700, 0x6800, 0x7C00}));
  const std::vector<uint8_t> flags{0, 1};
  EXPECT_EQ((cast_of<float>(flags, DType::kBool, DType::kFloat32)), (std::vector<float>{0, 1}));
  EXPECT_EQ((cast_of<int64_t>(flags, DType::kBool, DType::kInt64)), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ((cast_of<uint16_t>(flags, DType::kBool, DType::kBFloat16)), (std::vector<uint16_t>{0, 0x3F80}));
}

}  // namespace
}  // namespace bitlab::runtime
