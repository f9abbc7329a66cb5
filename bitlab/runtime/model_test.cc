// Weights in memory: one copy for all readers that can share it, whatever reads it.
#include "bitlab/runtime/model.h"

#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/test_support.h"

namespace bitlab::runtime {
namespace {

using kernels::test::packed;
using kernels::test::random_floats;
using kernels::test::random_int8;
using program::DType;
using program::kBatch;
using program::kNone;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;

constexpr int64_t kTableWords = 75, kTableDepth = 192, kTableTokens = 3;

// How the weights of a language model's table are stored.
enum class Kind { kTensor, kChannel, kTwoScales, kGroups, kInt8 };
constexpr Kind kKinds[] = {Kind::kTensor, Kind::kChannel, Kind::kTwoScales, Kind::kGroups, Kind::kInt8};

// `copy` keeps equal constants of the two apart: another scale, where it is not 0.
ValueId table(ProgramBuilder& b, const std::string& name, Kind kind, float copy = 0) {
  const std::vector<int64_t> shape{kTableWords, kTableDepth};
  const auto t = random_int8(kTableWords * kTableDepth, 7, kind == Kind::kInt8 ? -127 : -1, kind == Kind::kInt8 ? 127 : 1);
  std::vector<float> scale = random_floats(kind == Kind::kTensor ? 1 : kTableWords, 8),
                     scale_neg = random_floats(kTableWords, 9);
  for (float& s : scale) s = s + copy;
  if (kind == Kind::kInt8) return b.int8(name, shape, t, scale);
  program::TernaryScales scales(scale);
  if (kind == Kind::kTwoScales) scales.scale_neg = scale_neg;
  if (kind == Kind::kGroups) {
    scales = {};
    scales.group = 64;
    for (const float s : random_floats(kTableWords * kTableDepth / 64, 10))
      scales.group_scale.push_back(float_to_half(s + copy));
  }
  return b.ternary(name, shape, packed(t, kTableWords, kTableDepth), scales);
}

// logits = h W^T with h = W[ids], from one table or from two.
program::Program language_model(Kind kind, bool tied) {
  ProgramBuilder b;
  const ValueId ids = b.input("ids", {kBatch, kTableTokens}, DType::kInt64);
  const ValueId words = table(b, "words", kind), head = tied ? words : table(b, "head", kind);
  const ValueId h = *b.node(Op::ternary_embedding, "embedding", {ids, words});
  const ValueId y = *b.node(Op::ternary_linear, "logits", {h, head, kNone, kNone}, test::kInt8);
  return *b.finish({h, y});
}

std::vector<std::vector<float>> run(const std::shared_ptr<const Model>& model) {
  const std::vector<int64_t> ids{74, 0, 63, 64, 5, 5};
  const TensorView view{{2, kTableTokens}, ids.data()};
  SessionOptions options;
  options.threads = 2;
  const auto session = Session::create(model, options).value();
  const auto outputs = session->run({&view, 1}).value();
  std::vector<std::vector<float>> values;
  for (const TensorView& output : outputs) {
    const int64_t count = output.shape[0] * output.shape[1] * output.shape[2];
    values.emplace_back(output.as(), output.as() + count);
  }
  return values;
}

TEST(SharedWeights, TiedEmbeddingsHaveOneCopy) {
  for (const Kind kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    const auto tied = Model::create(language_model(kind, true)).value();
    // What the same product takes whose weight nothing else reads.
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, kTableDepth});
    const ValueId y = *b.node(Op::ternary_linear, "y", {x, table(b, "w", kind), kNone, kNone}, test::kInt8);
    const auto product = Model::create(*b.finish({y})).value();
    EXPECT_EQ(tied->weight_bytes(), product->weight_bytes());
    for (size_t i = 0; i < tied->program().values.size(); ++i) EXPECT_LE(tied->constant(static_cast<ValueId>(i)).size(), 1U);
  }
}

// The rows of a table are t s, in whatever layout it lies, and the logits those of a product that shares nothing.
TEST(SharedWeights, TiedEmbeddingsComputeWhatSeparateOnesDo) {
  for (const Kind kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    const auto tied = run(Model::create(language_model(kind, true)).value());
    // The table alone, in its own layout; its rows go into the product alone.
    ProgramBuilder lookup, product;
    const ValueId ids = lookup.input("ids", {kBatch, kTableTokens}, DType::kInt64);
    const ValueId h = *lookup.node(Op::ternary_embedding, "h", {ids, table(lookup, "words", kind)});
    const auto rows = run(Model::create(*lookup.finish({h})).value());
    EXPECT_EQ(tied[0], rows[0]);
    const ValueId x = product.input("x", {kBatch, kTableTokens, kTableDepth});
    const ValueId y = *product.node(Op::ternary_linear, "y", {x, table(product, "w", kind), kNone, kNone}, test::kInt8);
    const auto session = test::session_of(*product.finish({y}));
    const TensorView view{{2, kTableTokens, kTableDepth}, rows[0].data()};
    const auto outputs = session->run({&view, 1}).value();
    EXPECT_EQ(tied[1], std::vector<float>(outputs[0].as(), outputs[0].as() + 2 * kTableTokens * kTableWords));
  }
}

// A convolution with groups and a product want other layouts: both get theirs, and what that costs is counted.
TEST(SharedWeights, OtherLayoutsAreOtherCopies) {
  constexpr int64_t kRows = 8, kColumns = 16;
  const auto t = random_int8(kRows * kColumns, 3, -1, 1);
  const auto build = [&](bool with_conv, bool with_linear) {
    ProgramBuilder b;
    const ValueId w = b.ternary("w", {kRows, 1, kColumns}, packed(t, kRows, kColumns), {0.5F});
    const ValueId image = b.input("image", {kBatch, 2 * kColumns, 3});
    std::vector<ValueId> outputs;
    for (const int64_t groups : {2, 1}) {
      if (groups == 2 ? !with_conv : !with_linear) continue;
      const ValueId x = groups == 2 ? image
                                    : *b.node(Op::slice, "half", {image},
                                              {{"dim", int64_t{1}}, {"start", int64_t{0}}, {"length", Shape{kColumns}}});
      outputs.push_back(*b.node(Op::ternary_conv, fmt::format("conv{}", groups), {x, w, kNone, kNone},
                                {{"stride", Sizes{1}},
                                 {"padding", Sizes{0}},
                                 {"dilation", Sizes{1}},
                                 {"groups", groups},
                                 {"transposed", int64_t{0}},
                                 {"output_padding", Sizes{0}},
                                 {"activation", std::string("int8")}}));
    }
    return Model::create(*b.finish(outputs)).value();
  };
  const auto both = build(true, true), grouped = build(true, false), plain = build(false, true);
  const auto image = random_floats(2 * kColumns * 3, 5);
  const TensorView view{{1, 2 * kColumns, 3}, image.data()};
  const auto outputs_of = [&](const std::shared_ptr<const Model>& model) {
    const auto session = Session::create(model).value();
    std::vector<std::vector<float>> values;
    for (const TensorView& y : session->run({&view, 1}).value()) values.emplace_back(y.as(), y.as() + kRows * 3);
    return values;
  };
  const auto found = outputs_of(both);
  EXPECT_EQ(found[0], outputs_of(grouped)[0]);
  EXPECT_EQ(found[1], outputs_of(plain)[0]);
  EXPECT_EQ(both->weight_bytes(), grouped->weight_bytes() + plain->weight_bytes());
}

// Halves and what they stand for: 1, -2, the largest and the least of float16; the same and pi of bfloat16.
struct Halves {
  program::Storage storage;
  std::vector<uint16_t> bits;
  std::vector<float> values;
};
const Halves kHalves[] = {{program::Storage::kFloat16,
                           {0x3C00, 0xC000, 0x7BFF, 0x0001, 0x8000, 0x3555},
                           {1, -2, 65504, 0x1p-24F, -0.0F, 0x1.554p-2F}},
                          {program::Storage::kBFloat16,
                           {0x3F80, 0xC000, 0x7F7F, 0x0080, 0x8000, 0x4049},
                           {1, -2, 0x1.FEp127F, 0x1p-126F, -0.0F, 3.140625F}}};

// Three rows of two values.
program::Program lookup(const Halves& halves, bool with_product) {
  ProgramBuilder b;
  const ValueId ids = b.input("ids", {kBatch}, DType::kInt64), x = b.input("x", {kBatch, 2});
  const ValueId table = b.halves("table", {3, 2}, halves.bits, halves.storage);
  std::vector<ValueId> outputs{*b.node(Op::embedding, "rows", {ids, table}), *b.node(Op::relu, "positive", {x})};
  if (with_product) outputs.push_back(*b.node(Op::linear, "product", {x, table}));
  return *b.finish(outputs);
}

TEST(Halves, TablesStayInSixteenBits) {
  const std::vector<int64_t> ids{2, 0, 1, 1};
  const std::vector<float> x{1, 0, 0, 1, 1, 0, 0, 1};
  const TensorView inputs[] = {{{4}, ids.data()}, {{4, 2}, x.data()}};
  for (const Halves& halves : kHalves)
    for (const bool with_product : {false, true}) {
      const auto model = Model::create(lookup(halves, with_product)).value();
      EXPECT_EQ(model->weight_bytes(), with_product ? 6 * 4 : 6 * 2) << "a product reads floats";
      EXPECT_EQ(model->float32_weight_bytes(), 6 * 4);
      const auto session = Session::create(model).value();
      const auto outputs = session->run(inputs).value();
      for (size_t i = 0; i < 4; ++i)
        for (size_t j = 0; j < 2; ++j) {
          const float expected = halves.values[static_cast<size_t>(ids[i]) * 2 + j];
          EXPECT_EQ(outputs[0].as()[i * 2 + j], expected);
          EXPECT_EQ(std::signbit(outputs[0].as()[i * 2 + j]), std::signbit(expected));
        }
      if (!with_product) continue;
      for (size_t i = 0; i < 4; ++i)  // rows of x are unit vectors: columns of the table
        for (size_t r = 0; r < 3; ++r) EXPECT_EQ(outputs[2].as()[i * 3 + r], halves.values[r * 2 + i % 2]);
    }
}

// A constant in 16 bits serves everything that reads floats, as the floats do.
TEST(Halves, AreFloatsToOtherOperations) {
  const Halves& halves = kHalves[0];
  const auto build = [&](bool in_half) {
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, 6});
    const ValueId c = in_half ? b.halves("c", {6}, halves.bits, halves.storage) : b.floats("c", {6}, halves.values);
    const ValueId norm = *b.node(Op::rms_norm, "norm", {x, c}, {{"dims", int64_t{1}}, {"eps", 1e-5}});
    const ValueId sum = *b.node(Op::add, "sum", {norm, c});
    const ValueId wide = *b.node(Op::cast, "wide", {c}, {{"dtype", std::string("bfloat16")}});
    const ValueId row = *b.node(Op::reshape, "row", {c}, {{"shape", Shape{1, 6}}});
    return Model::create(*b.finish({sum, wide, *b.node(Op::cat, "y", {row, row}, {{"dim", int64_t{0}}})})).value();
  };
  const auto x = random_floats(3 * 6, 21);
  const TensorView view{{3, 6}, x.data()};
  std::vector<std::vector<uint8_t>> found[2];
  for (const bool in_half : {false, true}) {
    const auto session = Session::create(build(in_half)).value();
    for (const TensorView& y : session->run({&view, 1}).value()) {
      size_t bytes = static_cast<size_t>(size_of(y.dtype));
      for (const int64_t size : y.shape) bytes *= static_cast<size_t>(size);
      found[in_half ? 1 : 0].emplace_back(y.as<uint8_t>(), y.as<uint8_t>() + bytes);
    }
  }
  EXPECT_EQ(found[0], found[1]);
}

TEST(Model, IsReadFromMemoryThatGoesAway) {
  std::string bytes = format::bit::serialize(language_model(Kind::kChannel, true)).value();
  const auto model = Model::load_memory({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}).value();
  std::fill(bytes.begin(), bytes.end(), '\xFF');
  bytes = {};
  EXPECT_EQ(run(model), run(Model::create(language_model(Kind::kChannel, true)).value()));
  EXPECT_EQ(Model::load_memory({}).error().message, "[bit] a file of at least 8 bytes, got 0");
}

TEST(SharedWeights, EqualConstantsAreOne) {
  ProgramBuilder b;
  const ValueId a = b.floats("a", {2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(b.floats("same", {2, 3}, {1, 2, 3, 4, 5, 6}), a);
  EXPECT_NE(b.floats("other shape", {3, 2}, {1, 2, 3, 4, 5, 6}), a);
  EXPECT_NE(b.floats("other value", {2, 3}, {1, 2, 3, 4, 5, 7}), a);
  const ValueId zero = b.floats("zero", {1}, {0.0F});
  EXPECT_NE(b.floats("minus zero", {1}, {-0.0F}), zero) << "other bits";
  const ValueId t = table(b, "t", Kind::kChannel);
  EXPECT_EQ(table(b, "again", Kind::kChannel), t);
  EXPECT_NE(table(b, "other scales", Kind::kChannel, 1), t);
  EXPECT_NE(table(b, "two", Kind::kTwoScales), t);
}

}  // namespace
}  // namespace bitlab::runtime
