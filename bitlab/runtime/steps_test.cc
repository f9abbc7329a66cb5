// Nodes that move, broadcast and reduce, against plain loops over indices: every layout, a batch anywhere.
#include <bit>
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/test_support.h"

namespace bitlab::runtime {
namespace {

using kernels::test::random_floats;
using program::kBatch;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;

constexpr int64_t kSamples = 3;

// What a program with one output makes of an input of any type, with one thread and with three, which must agree.
template <class T>
std::vector<T> run_elements(program::Program p, const std::vector<T>& x) {
  const program::Value& input = p.value(p.inputs[0]);
  const TensorView view{shape_at(input.shape, program::at_batch(kSamples)), input.dtype, x.data()};
  const auto model = Model::create(std::move(p)).value();
  std::vector<T> first;
  for (const int threads : {1, 3}) {
    const auto session = Session::create(model, {threads, {}}).value();
    const TensorView y = session->run({&view, 1}).value()[0];
    std::vector<T> values(y.as<T>(), y.as<T>() + test::count_of(y.shape));
    if (first.empty()) first = values;
    EXPECT_EQ(values, first);
  }
  return first;
}

std::vector<float> run(program::Program p, const std::vector<float>& x) { return run_elements(std::move(p), x); }

// x[b, c, h, w] of the tests below.
constexpr int64_t kC = 3, kH = 2, kW = 5;
struct Image {
  ProgramBuilder b;
  ValueId x;
  std::vector<float> data = random_floats(kSamples * kC * kH * kW, 1);
  // Behind a pool of one pixel values lie channels last.
  explicit Image(bool channels_last) : x(b.input("x", {kBatch, kC, kH, kW})) {
    if (channels_last)
      x = *b.node(
          Op::max_pool, "pool", {x},
          {{"kernel_size", Sizes{1, 1}}, {"stride", Sizes{1, 1}}, {"padding", Sizes{0, 0}}, {"dilation", Sizes{1, 1}}});
  }
  float at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return data[static_cast<size_t>(((n * kC + c) * kH + h) * kW + w)];
  }
};

// For each element of [samples, c, h, w] in row-major order.
template <class F>
void for_each_pixel(F f) {
  size_t i = 0;
  for (int64_t n = 0; n < kSamples; ++n)
    for (int64_t c = 0; c < kC; ++c)
      for (int64_t h = 0; h < kH; ++h)
        for (int64_t w = 0; w < kW; ++w) f(i++, n, c, h, w);
}

TEST(Steps, BroadcastInEveryLayout) {
  struct Case {
    std::vector<int64_t> shape;
    std::function<size_t(int64_t, int64_t, int64_t)> index;  // of c, h, w
  };
  const Case cases[] = {
      {{1}, [](int64_t, int64_t, int64_t) { return 0U; }},
      {{kW}, [](int64_t, int64_t, int64_t w) { return w; }},
      {{kH, 1}, [](int64_t, int64_t h, int64_t) { return h; }},
      {{kC, 1, 1}, [](int64_t c, int64_t, int64_t) { return c; }},
      {{1, kC, kH, 1}, [](int64_t c, int64_t h, int64_t) { return c * kH + h; }},
      {{kC, kH, kW}, [](int64_t c, int64_t h, int64_t w) { return (c * kH + h) * kW + w; }},
  };
  for (const Case& c : cases)
    for (bool channels_last : {false, true})
      for (bool in_front : {false, true})
        for (Op op : {Op::sub, Op::mul}) {
          Image image(channels_last);
          const auto values = random_floats(test::count_of(c.shape), 2);
          const ValueId constant = image.b.floats("c", c.shape, values);
          const ValueId y =
              *image.b.node(op, "y", in_front ? std::vector{constant, image.x} : std::vector{image.x, constant});
          const auto found = run(*image.b.finish({y}), image.data);
          for_each_pixel([&](size_t i, int64_t n, int64_t channel, int64_t h, int64_t w) {
            float a = image.at(n, channel, h, w), other = values[c.index(channel, h, w)];
            if (in_front) std::swap(a, other);
            EXPECT_EQ(found[i], op == Op::sub ? a - other : a * other);
          });
        }
}

TEST(Steps, MovementInEveryLayout) {
  for (bool channels_last : {false, true}) {
    const auto check = [&](Op op, program::Attributes attributes, auto expect) {
      Image image(channels_last);
      const ValueId y = *image.b.node(op, "y", {image.x}, std::move(attributes));
      const auto found = run(*image.b.finish({y}), image.data);
      for_each_pixel([&](size_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
        const int64_t at = expect(static_cast<int64_t>(i), n, c, h, w);
        if (at < 0) return;
        EXPECT_EQ(found[static_cast<size_t>(at)], image.at(n, c, h, w)) << name(op) << " " << i;
      });
    };
    check(Op::reshape, {{"shape", Shape{kC, with_factor(kBatch, kH), kW}}}, [](int64_t i, auto...) { return i; });
    check(Op::permute, {{"dims", Sizes{3, 0, 2, 1}}},
          [](int64_t, int64_t n, int64_t c, int64_t h, int64_t w) { return ((w * kSamples + n) * kH + h) * kC + c; });
    check(Op::slice, {{"dim", int64_t{1}}, {"start", int64_t{1}}, {"length", Shape{2}}},
          [](int64_t, int64_t n, int64_t c, int64_t h, int64_t w) {
            return c < 1 ? -1 : ((n * 2 + c - 1) * kH + h) * kW + w;
          });
    check(Op::slice, {{"dim", int64_t{3}}, {"start", int64_t{2}}, {"length", Shape{1}}},
          [](int64_t, int64_t n, int64_t c, int64_t h, int64_t w) { return w != 2 ? -1 : (n * kC + c) * kH + h; });
  }
}

TEST(Steps, CatOfLayoutsAndConstants) {
  for (int64_t dim : {1, 2, 3}) {
    Image image(true);
    const ValueId other = *image.b.node(Op::mul, "double", {image.b.peek().inputs[0], image.b.floats("two", {1}, {2.0F})});
    const ValueId y = *image.b.node(Op::cat, "y", {image.x, other}, {{"dim", dim}});
    const Shape shape = image.b.peek().value(y).shape;
    const auto found = run(*image.b.finish({y}), image.data);
    const int64_t wide[] = {shape[1].factor, shape[2].factor, shape[3].factor};
    for_each_pixel([&](size_t, int64_t n, int64_t c, int64_t h, int64_t w) {
      int64_t second[] = {c, h, w};
      const int64_t sizes[] = {kC, kH, kW};
      second[dim - 1] += sizes[dim - 1];
      EXPECT_EQ(found[static_cast<size_t>(((n * wide[0] + c) * wide[1] + h) * wide[2] + w)], image.at(n, c, h, w));
      EXPECT_EQ(found[static_cast<size_t>(((n * wide[0] + second[0]) * wide[1] + second[1]) * wide[2] + second[2])],
                2 * image.at(n, c, h, w));
    });
  }
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2, 2});
  const ValueId row = *b.node(Op::expand, "row", {b.floats("r", {1, 1, 2}, {7, 8})}, {{"shape", Shape{kBatch, 1, 2}}});
  const ValueId y = *b.node(Op::cat, "y", {row, x}, {{"dim", int64_t{1}}});
  const auto data = random_floats(kSamples * 4, 3);
  const auto found = run(*b.finish({y}), data);
  for (size_t n = 0; n < kSamples; ++n) {
    EXPECT_EQ(found[n * 6], 7);
    EXPECT_EQ(found[n * 6 + 1], 8);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(found[n * 6 + 2 + i], data[n * 4 + i]);
  }
}

// What a sort gives of a row, and its places.
std::pair<std::vector<float>, std::vector<int64_t>> sorted(const std::vector<float>& row, int64_t length,
                                                           int64_t descending) {
  const auto columns = static_cast<int64_t>(row.size());
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, columns});
  const auto y = *b.nodes(Op::sort, "y", {x}, {{"length", Shape{length}}, {"descending", descending}});
  const auto session = test::session_of(*b.finish(y));
  const TensorView input{{1, columns}, row.data()};
  const auto found = session->run({&input, 1}).value();
  return {{found[0].as(), found[0].as() + length}, {found[1].as<int64_t>(), found[1].as<int64_t>() + length}};
}

TEST(Steps, SortsPutNanLastAndKeepTheOrderOfEquals) {
  const std::vector<float> row{3, NAN, -0.0F, 0, -INFINITY, 3, 1, NAN};
  const auto [up, places] = sorted(row, 8, 0);
  EXPECT_EQ(places, (std::vector<int64_t>{4, 2, 3, 6, 0, 5, 1, 7}));
  for (size_t i = 0; i < places.size(); ++i)
    EXPECT_EQ(std::bit_cast<uint32_t>(up[i]), std::bit_cast<uint32_t>(row[static_cast<size_t>(places[i])]));
  EXPECT_EQ(sorted(row, 5, 1).second, (std::vector<int64_t>{1, 7, 0, 5, 6}));
  EXPECT_EQ(sorted(row, 1, 0).second, (std::vector<int64_t>{4}));
}

// Parts of 1, 3, 2 and 5 along a dimension of x[n, i, j], put together in another order; the part of 2 is read by nothing.
template <class T>
void expect_parts(program::DType dtype, int64_t dim, bool by_batch) {
  constexpr int64_t kParts = 11, kOther = 3;
  const int64_t rows = dim == 1 ? kParts : kOther, columns = dim == 1 ? kOther : kParts;
  ProgramBuilder b;
  const ValueId x = b.input("x", by_batch ? Shape{kBatch, rows, columns} : Shape{kSamples, rows, columns}, dtype);
  const auto parts = *b.nodes(Op::split, "parts", {x}, {{"dim", dim}, {"sizes", Shape{1, 3, 2, 5}}});
  const ValueId y = *b.node(Op::cat, "y", {parts[3], parts[0], parts[1], parts[0]}, {{"dim", dim}});
  std::vector<T> data;
  for (int64_t i = 0; i < kSamples * kParts * kOther; ++i)
    data.push_back(static_cast<T>(sizeof(T) == 1 ? i % 3 == 0 : i * 7919));
  const auto found = run_elements(*b.finish({y}), data);
  const int64_t order[] = {6, 7, 8, 9, 10, 0, 1, 2, 3, 0};
  size_t i = 0;
  for (int64_t n = 0; n < kSamples; ++n)
    for (int64_t r = 0; r < (dim == 1 ? 10 : rows); ++r)
      for (int64_t c = 0; c < (dim == 2 ? 10 : columns); ++c)
        EXPECT_EQ(found[i++],
                  data[static_cast<size_t>((n * rows + (dim == 1 ? order[r] : r)) * columns + (dim == 2 ? order[c] : c))]);
  EXPECT_EQ(i, found.size());
}

TEST(Steps, ManyPartsOfEveryType) {
  for (const int64_t dim : {1, 2})
    for (const bool by_batch : {false, true}) {
      expect_parts<float>(program::DType::kFloat32, dim, by_batch);
      expect_parts<int64_t>(program::DType::kInt64, dim, by_batch);
      expect_parts<int32_t>(program::DType::kInt32, dim, by_batch);
      expect_parts<uint16_t>(program::DType::kBFloat16, dim, by_batch);
      expect_parts<uint8_t>(program::DType::kBool, dim, by_batch);
    }
}

// Channels 0, 1 and 2 of an image, in whatever layout, as three outputs, of which one is none of the program's.
TEST(Steps, PartsOfImages) {
  for (const bool channels_last : {false, true}) {
    Image image(channels_last);
    const auto parts = *image.b.nodes(Op::split, "parts", {image.x}, {{"dim", int64_t{1}}, {"sizes", Shape{1, 1, 1}}});
    const ValueId y = *image.b.node(Op::cat, "y", {parts[2], image.x, parts[0]}, {{"dim", int64_t{1}}});
    const auto found = run(*image.b.finish({y}), image.data);
    for_each_pixel([&](size_t, int64_t n, int64_t c, int64_t h, int64_t w) {
      const auto at = [&](int64_t channel) { return found[static_cast<size_t>(((n * 5 + channel) * kH + h) * kW + w)]; };
      EXPECT_EQ(at(1 + c), image.at(n, c, h, w));
      if (c == 2) {
        EXPECT_EQ(at(0), image.at(n, c, h, w));
      } else if (c == 0) {
        EXPECT_EQ(at(4), image.at(n, c, h, w));
      }
    });
  }
}

TEST(Steps, CastsKeepTheOrderOfImages) {
  Image image(true);
  ValueId y = *image.b.node(Op::cast, "narrow", {image.x}, {{"dtype", std::string("int64")}});
  y = *image.b.node(Op::cast, "y", {y}, {{"dtype", std::string("float32")}});
  const auto found = run(*image.b.finish({y}), image.data);
  for_each_pixel([&](size_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
    EXPECT_EQ(found[i], std::trunc(image.at(n, c, h, w)) + 0.0F);
  });
}

// A bool mask gives the bits of one that adds 0 or minus infinity, in every shape that it can have, and in whatever layout it comes.
TEST(Steps, MasksOfBoolAndOfFloats) {
  constexpr int64_t kHeads = 2, kQueries = 3, kKeys = 5, kDepth = 4;
  const Shape shapes[] = {
      {kKeys}, {kQueries, kKeys}, {kBatch, 1, 1, kKeys}, {1, kHeads, kQueries, 1}, {kBatch, kHeads, kQueries, kKeys}};
  enum class Form { kAdded, kAddedBehindAPool, kBool };
  for (const Shape& shape : shapes)
    for (const int64_t causal : {0, 1}) {
      const int64_t count = elements(shape, program::at_batch(kSamples));
      std::vector<uint8_t> allowed;
      for (const int8_t bit : kernels::test::random_int8(count, 11, 0, 2)) allowed.push_back(bit > 0);
      const auto run_with = [&](Form form) {
        ProgramBuilder b;
        const ValueId q = b.input("q", {kBatch, kHeads, kQueries, kDepth}),
                      k = b.input("k", {kBatch, kHeads, kKeys, kDepth});
        ValueId mask = b.input("mask", shape, form == Form::kBool ? program::DType::kBool : program::DType::kFloat32);
        if (form == Form::kAddedBehindAPool && shape.size() == 4)  // channels last
          mask = *b.node(
              Op::max_pool, "pool", {mask},
              {{"kernel_size", Sizes{1, 1}}, {"stride", Sizes{1, 1}}, {"padding", Sizes{0, 0}}, {"dilation", Sizes{1, 1}}});
        const ValueId y = *b.node(Op::attention, "y", {q, k, k, mask}, {{"causal", causal}, {"scale", 0.5}});
        const auto session = test::session_of(*b.finish({y}));
        const auto qs = random_floats(kSamples * kHeads * kQueries * kDepth, 12),
                   ks = random_floats(kSamples * kHeads * kKeys * kDepth, 13);
        std::vector<float> added;
        for (const uint8_t may : allowed) added.push_back(may != 0 ? 0.0F : -INFINITY);
        const std::vector<int64_t> sizes = shape_at(shape, program::at_batch(kSamples));
        const TensorView inputs[] = {{{kSamples, kHeads, kQueries, kDepth}, qs.data()},
                                     {{kSamples, kHeads, kKeys, kDepth}, ks.data()},
                                     form == Form::kBool ? TensorView(sizes, program::DType::kBool, allowed.data())
                                                         : TensorView(sizes, added.data())};
        const TensorView found = session->run(inputs).value()[0];
        return std::vector<float>(found.as(), found.as() + kSamples * kHeads * kQueries * kDepth);
      };
      const auto added = run_with(Form::kAdded);
      EXPECT_TRUE(kernels::test::same_bits(run_with(Form::kBool), added)) << shape.size() << " " << causal;
      EXPECT_TRUE(kernels::test::same_bits(run_with(Form::kAddedBehindAPool), added)) << shape.size() << " " << causal;
    }
}

TEST(Steps, NormsAndMeansReadRows) {
  for (bool channels_last : {false, true}) {
    Image image(channels_last);
    const auto weight = random_floats(kH * kW, 4), bias = random_floats(kH * kW, 5);
    const ValueId w = image.b.floats("w", {kH, kW}, weight), c = image.b.floats("b", {kH, kW}, bias);
    ValueId y = *image.b.node(Op::layer_norm, "norm", {image.x, w, c}, {{"dims", int64_t{2}}, {"eps", 1e-5}});
    y = *image.b.node(Op::mean, "mean", {y});
    const auto found = run(*image.b.finish({y}), image.data);
    for (int64_t n = 0; n < kSamples; ++n)
      for (int64_t channel = 0; channel < kC; ++channel) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < kH * kW; ++i) mean += static_cast<double>(image.at(n, channel, 0, i)) / (kH * kW);
        for (int64_t i = 0; i < kH * kW; ++i)
          variance += std::pow(static_cast<double>(image.at(n, channel, 0, i)) - mean, 2) / (kH * kW);
        for (int64_t h = 0; h < kH; ++h) {
          double expected = 0;
          for (int64_t v = 0; v < kW; ++v) {
            const auto i = static_cast<size_t>(h * kW + v);
            expected += ((static_cast<double>(image.at(n, channel, h, v)) - mean) / std::sqrt(variance + 1e-5) *
                             static_cast<double>(weight[i]) +
                         static_cast<double>(bias[i])) /
                        kW;
          }
          EXPECT_NEAR(found[static_cast<size_t>((n * kC + channel) * kH + h)], expected, 1e-5);
        }
      }
  }
}

TEST(Steps, BatchNormOfImagesAndRows) {
  for (bool image : {false, true}) {
    ProgramBuilder b;
    const ValueId x = image ? b.input("x", {kBatch, 2, 3}) : b.input("x", {kBatch, 2});
    const ValueId y = *b.node(Op::batch_norm, "y", {x, b.floats("s", {2}, {2, 3}), b.floats("t", {2}, {10, 20})});
    const auto data = random_floats(kSamples * 2 * (image ? 3 : 1), 6);
    const auto found = run(*b.finish({y}), data);
    for (size_t i = 0; i < data.size(); ++i) {
      const size_t channel = i / (image ? 3U : 1U) % 2;
      EXPECT_EQ(found[i], data[i] * (channel == 0 ? 2.0F : 3.0F) + (channel == 0 ? 10.0F : 20.0F));
    }
  }
}

}  // namespace
}  // namespace bitlab::runtime
