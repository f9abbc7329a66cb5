// Every number of every operation at its edges: nothing divides by zero, overflows or reads beyond its memory, whoever wrote the program.
// It is refused with one sentence, or it runs.
#include <cmath>
#include <limits>
#include <set>

#include <gtest/gtest.h>

#include "bitlab/format/bit/graph_json.h"
#include "bitlab/program/verify.h"
#include "bitlab/runtime/session.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::runtime {
namespace {

using program::Dim;
using program::DType;
using program::kBatch;
using program::Op;
using program::Program;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::Value;
using program::ValueId;
using program::ValueKind;

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();
constexpr int64_t kEdges[] = {kLeast,           -(int64_t{1} << 40), -2,   -1, 0, 1, 2, 3, int64_t{1} << 20,
                              int64_t{1} << 40, int64_t{1} << 62,    kMost};

// Data of the length that a constant's shape says, where it is short; else what it was.
void fit_data(Program& p) {
  constexpr int64_t kLongest = 1 << 12;
  for (program::Constant& constant : p.constants) {
    const Value& v = p.value(constant.value);
    if (!is_valid(v.shape) || elements(v.shape, 1) > kLongest) continue;
    struct Data {
      std::vector<float> floats;
      std::vector<uint8_t> codes;
      std::vector<int8_t> t;
      float scale = 0.5F;
    };
    const auto data = std::make_shared<Data>();
    const auto count = static_cast<size_t>(elements(v.shape, 1));
    data->floats.resize(count, 0.25F);
    data->t.resize(count, 1);
    if (v.dtype == DType::kFloat32) constant.data = program::FloatData(data->floats);
    if (v.dtype == DType::kInt8) constant.data = program::Int8Data{data->t, {&data->scale, 1}};
    if (v.dtype == DType::kTernary && !v.shape.empty()) {
      const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape);
      data->codes.resize(static_cast<size_t>(ternary::code_bytes(rows, depth)));
      ternary::pack_codes(data->t, rows, depth, data->codes);
      constant.data = program::TernaryData{data->codes, {&data->scale, 1}, {}, {}, 0};
    }
    constant.storage = data;
  }
}

// What of a layer decides which kernels run.
struct Variant {
  DType weights = DType::kTernary;
  int64_t channels = 4, groups = 2, transposed = 0;
};

std::vector<Variant> variants(Op op) {
  if (op == Op::conv) return {{}, {.transposed = 1}};
  if (op == Op::ternary_linear || op == Op::ternary_embedding) return {{}, {.weights = DType::kInt8}};
  if (op == Op::ternary_conv)  // gathered, in int8, depthwise, read in place, transposed
    return {{}, {.weights = DType::kInt8}, {.channels = 6, .groups = 6}, {.channels = 32, .groups = 1}, {.transposed = 1}};
  return {{}};
}

// A small program of one node.
class Example {
 public:
  Example(Op op, const Variant& variant) : op_(op), variant_(variant) {}

  Program program() {
    using Attributes = std::map<std::string, program::Attribute>;
    const Attributes window{{"stride", Sizes{2, 1}},         {"padding", Sizes{1, 2}},
                            {"dilation", Sizes{2, 1}},       {"transposed", variant_.transposed},
                            {"output_padding", Sizes{0, 0}}, {"groups", variant_.groups}};
    const std::vector<int64_t> image{variant_.channels, 5, 6}, filters{6, 3, 2, variant_.channels / variant_.groups};
    const Attributes pool{{"kernel_size", Sizes{3, 2}}, {"stride", Sizes{2, 1}}, {"padding", Sizes{1, 0}}};
    const auto with = [](Attributes attributes, const std::string& key, const program::Attribute& value) {
      attributes[key] = value;
      return attributes;
    };
    switch (op_) {
      case Op::ternary_linear:
        return made({x({3, 8}), weights({5, 8}), floats({5})}, {{"activation", std::string("int8")}});
      case Op::linear:
        return made({x({3, 8}), floats({5, 8}), floats({5})});
      case Op::ternary_conv:
        return made({x(image), weights(filters), floats({6})}, with(window, "activation", std::string("int8")));
      case Op::conv:
        return made({x(image), floats(filters), floats({6})}, window);
      case Op::ternary_embedding:
        return made({x({3}, DType::kInt64), weights({5, 8})});
      case Op::embedding:
        return made({x({3}, DType::kInt64), floats({5, 8})});
      case Op::max_pool:
        return made({x({4, 5, 6})}, with(pool, "dilation", Sizes{1, 2}));
      case Op::avg_pool:
        return made({x({4, 5, 6})}, pool);
      case Op::batch_norm:
        return made({x({4, 5}), floats({4}), floats({4})});
      case Op::relu:
      case Op::gelu:
      case Op::gelu_tanh:
      case Op::silu:
      case Op::sigmoid:
      case Op::tanh:
      case Op::mean:
        return made({x({4, 5})});
      case Op::add:
      case Op::sub:
      case Op::mul:
      case Op::div:
        return made({x({4, 5}), floats({4, 1})});
      case Op::reshape:
        return made({x({4, 5})}, {{"shape", Sizes{2, -10}}});
      case Op::permute:
        return made({x({4, 5})}, {{"dims", Sizes{1, 0, 2}}});
      case Op::slice:
        return made({x({4, 5})}, {{"dim", int64_t{1}}, {"start", int64_t{1}}, {"length", int64_t{2}}});
      case Op::cat:
        return made({x({4, 5}), x({2, 5})}, {{"dim", int64_t{1}}});
      case Op::expand:
        return made({floats({1, 4})});
      case Op::matmul:
        return made({x({4, 5}), x({5, 3})});
      case Op::attention:
        return made({x({4, 3, 5}), x({2, 6, 5}), x({2, 6, 7}), floats({3, 6})}, {{"causal", int64_t{1}}, {"scale", 0.5}});
      case Op::softmax:
        return made({x({4, 5})}, {{"dim", int64_t{2}}});
      case Op::layer_norm:
        return made({x({4, 5}), floats({4, 5}), floats({4, 5})}, {{"dims", int64_t{2}}, {"eps", 1e-5}});
      case Op::rms_norm:
        return made({x({4, 5}), floats({5})}, {{"dims", int64_t{1}}, {"eps", 1e-5}});
    }
    return {};
  }

 private:
  ValueId x(const std::vector<int64_t>& sizes, DType dtype = DType::kFloat32) {
    Shape shape{kBatch};
    for (int64_t size : sizes) shape.push_back({size, false});
    return b_.input(fmt::format("x{}", ++count_), shape, dtype);
  }
  ValueId floats(const std::vector<int64_t>& sizes) { return b_.floats(fmt::format("f{}", ++count_), sizes, {}); }
  ValueId weights(const std::vector<int64_t>& sizes) {
    const std::string name = fmt::format("w{}", ++count_);
    return variant_.weights == DType::kInt8 ? b_.int8(name, sizes, {}, {}) : b_.ternary(name, sizes, {}, {});
  }
  Program made(std::vector<ValueId> inputs, std::map<std::string, program::Attribute> attributes = {}) {
    const ValueId y = b_.node(op_, "y", std::move(inputs), std::move(attributes)).value();
    Program p = b_.peek();
    p.outputs = {y};
    fit_data(p);
    return p;
  }

  Op op_;
  Variant variant_;
  ProgramBuilder b_;
  int count_ = 0;
};

void expect_sentence(const Error& error) {
  EXPECT_TRUE(error.message.starts_with("[")) << error.message;
  EXPECT_NE(error.message.find("got "), std::string::npos) << error.message;
  EXPECT_EQ(error.message.find('\n'), std::string::npos) << error.message;
}

void run(const std::shared_ptr<const Model>& model, int64_t batch) {
  constexpr int64_t kMostBytes = 1 << 22;
  const auto plan = make_plan(*model, batch, 1);
  if (!plan.ok()) return expect_sentence(plan.error());
  if (plan->arena_bytes > kMostBytes) return;  // A valid program may well be a large one.
  const Program& p = model->program();
  const auto has_batch = [&](ValueId id) {
    return std::any_of(p.value(id).shape.begin(), p.value(id).shape.end(), [](Dim d) { return d.symbolic; });
  };
  if (std::none_of(p.inputs.begin(), p.inputs.end(), has_batch)) batch = 1;
  std::vector<std::vector<float>> data;
  std::vector<std::vector<int64_t>> indices;
  std::vector<TensorView> views;
  for (ValueId id : p.inputs) {
    const Value& v = p.value(id);
    data.emplace_back(static_cast<size_t>(elements(v.shape, batch)), 0.5F);
    indices.emplace_back(data.back().size(), 0);
    const bool is_index = v.dtype == DType::kInt64;
    views.push_back(
        {at_batch(v.shape, batch), is_index ? nullptr : data.back().data(), is_index ? indices.back().data() : nullptr});
  }
  auto session = Session::create(model).value();
  const auto outputs = session->run(views);
  if (!outputs.ok()) return expect_sentence(outputs.error());
  const Shape& shape = p.value(p.outputs[0]).shape;
  EXPECT_EQ((*outputs)[0].shape, at_batch(shape, batch));
  float most = 0;  // A sanitizer sees every value read.
  for (int64_t i = 0; i < elements(shape, batch); ++i) most = std::max(most, (*outputs)[0].data[i]);
  EXPECT_GE(most, 0);
}

// `p` is refused, or runs.
void check(Program p) {
  SCOPED_TRACE(format::bit::graph_to_json(p));
  fit_data(p);
  const Result<Shape> shape = infer_shape(p, p.nodes[0]);
  if (shape.ok()) {
    EXPECT_TRUE(is_valid(*shape)) << to_string(*shape);
    p.values[static_cast<size_t>(p.nodes[0].output)].shape = *shape;
  } else {
    expect_sentence(shape.error());
  }
  if (const auto read = format::bit::graph_from_json(format::bit::graph_to_json(p)); !read.ok())
    expect_sentence(read.error());
  const Status status = verify(p);
  if (!status.ok()) return expect_sentence(status.error());
  ASSERT_TRUE(shape.ok());
  const auto model = Model::create(p);
  if (!model.ok()) return expect_sentence(model.error());
  for (int64_t batch : {0, 1, 3}) run(*model, batch);
  for (int64_t batch : {int64_t{1} << 20, int64_t{1} << 40, int64_t{1} << 44, kMost})  // memory is counted, not taken
    if (const auto plan = make_plan(**model, batch, 1024); !plan.ok()) expect_sentence(plan.error());
}

class EdgesOf : public ::testing::TestWithParam<size_t> {
 protected:
  static std::vector<Program> examples() {
    const Op op = static_cast<Op>(GetParam());
    std::vector<Program> list;
    for (const Variant& variant : variants(op)) list.push_back(Example(op, variant).program());
    return list;
  }
  // Checks `original` after change(program).
  template <class F>
  static void with(const Program& original, F change) {
    Program p = original;
    change(p);
    check(std::move(p));
  }
};

TEST_P(EdgesOf, TheExamplesRun) {
  for (const Program& p : examples()) {
    ASSERT_TRUE(verify(p).ok()) << verify(p).error().message;
    check(p);
  }
}

// Calls set(value) with every value that an attribute of that kind is tried with.
template <class F>
void for_each_edge(const program::Attribute& value, const F& set) {
  if (std::holds_alternative<int64_t>(value)) {
    for (int64_t edge : kEdges) set(edge);
  } else if (const auto* sizes = std::get_if<Sizes>(&value)) {
    for (size_t i = 0; i < sizes->size(); ++i)
      for (int64_t edge : kEdges) {
        Sizes changed = *sizes;
        changed[i] = edge;
        set(changed);
      }
    for (int64_t edge : kEdges) set(Sizes(sizes->size(), edge));
    for (size_t count : {size_t{0}, sizes->size() - 1, sizes->size() + 1}) set(Sizes(count, 1));
  } else if (std::holds_alternative<double>(value)) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    for (double edge : {0.0, -0.0, -1.0, 1e-300, 1e29, 1e300, kInfinity, -kInfinity, std::nan("")}) set(edge);
  } else {
    for (const char* edge : {"", "none", "int4", "int8_static", "int9"}) set(std::string(edge));
  }
}

TEST_P(EdgesOf, EveryAttribute) {
  for (const Program& original : examples())
    for (const auto& [key, value] : original.nodes[0].attributes)
      for_each_edge(value, [&, name = key](const program::Attribute& edge) {
        with(original, [&](Program& p) { p.nodes[0].attributes[name] = edge; });
      });
}

TEST_P(EdgesOf, EverySize) {
  for (const Program& original : examples())
    for (size_t v = 0; v < original.values.size(); ++v) {
      const auto set = [&](const Shape& shape) { with(original, [&](Program& p) { p.values[v].shape = shape; }); };
      const Shape& shape = original.values[v].shape;
      for (size_t i = 0; i < shape.size(); ++i)
        for (int64_t edge : kEdges)
          for (bool symbolic : {false, true}) {
            Shape changed = shape;
            changed[i] = {edge, symbolic};
            set(changed);
          }
      for (int64_t edge : kEdges) set(Shape(shape.size(), {edge, false}));
      for (size_t rank = 0; rank <= 6; ++rank) {
        Shape changed = shape;
        changed.resize(rank, {1, false});
        set(changed);
      }
    }
}

// A size is changed wherever it stands, so that shapes still agree.
TEST_P(EdgesOf, EverySizeInAllShapes) {
  for (const Program& original : examples()) {
    std::set<int64_t> sizes;
    for (const Value& v : original.values)
      for (const Dim& dim : v.shape) sizes.insert(dim.size);
    for (int64_t size : sizes)
      for (int64_t edge : kEdges)
        with(original, [&](Program& p) {
          for (Value& v : p.values)
            for (Dim& dim : v.shape)
              if (dim.size == size && !dim.symbolic) dim.size = edge;
        });
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, EdgesOf, ::testing::Range<size_t>(0, program::op_schemas().size()),
                         [](const auto& param) { return program::op_schemas()[param.param].name; });

}  // namespace
}  // namespace bitlab::runtime
