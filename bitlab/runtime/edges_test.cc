// Every number of every operation at its edges: nothing divides by zero, overflows or reads beyond its memory, whoever wrote the program.
// It is refused with one sentence, or it runs.
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include <gtest/gtest.h>

#include "bitlab/format/bit/internal/graph_json.h"
#include "bitlab/program/verify.h"
#include "bitlab/runtime/edges_test_support.h"
#include "bitlab/runtime/session.h"

namespace bitlab::runtime {
namespace {

using program::SymbolSizes;
using program::ValueKind;

constexpr int64_t kLeastInt = std::numeric_limits<int64_t>::min(), kMostInt = std::numeric_limits<int64_t>::max();
constexpr int64_t kEdges[] = {kLeastInt,        -(int64_t{1} << 40), -2,      -1, 0, 1, 2, 3, int64_t{1} << 20,
                              int64_t{1} << 40, int64_t{1} << 62,    kMostInt};

Dim power(size_t symbol, uint8_t exponent) {
  Dim dim(1);
  dim.powers[symbol] = exponent;
  return dim;
}

// What a size is tried with.
std::vector<Dim> edge_dims() {
  std::vector<Dim> dims{kBatch * kTokensDim, power(1, 2), power(1, 8), power(1, 9), power(0, 255), power(7, 1), kContextDim};
  for (const int64_t edge : kEdges)
    for (const Dim& symbol : {Dim(1), kBatch, kTokensDim}) dims.push_back(with_factor(symbol, edge));
  return dims;
}

void expect_sentence(const Error& error) {
  EXPECT_TRUE(error.message.starts_with("[")) << error.message;
  EXPECT_NE(error.message.find("got "), std::string::npos) << error.message;
  EXPECT_EQ(error.message.find('\n'), std::string::npos) << error.message;
}

// Whether a session takes a symbol's size from the inputs.
bool is_bound(const Program& p, size_t symbol) {
  return std::any_of(p.inputs.begin(), p.inputs.end(), [&](ValueId id) {
    const Shape& shape = p.value(id).shape;
    return std::any_of(shape.begin(), shape.end(),
                       [&](const Dim& dim) { return with_factor(dim, 1) == Dim::of_symbol(symbol); });
  });
}

// Elements that any operation takes: 0.5, the index 0, true.
std::vector<uint8_t> elements_of(DType dtype, int64_t count) {
  const auto filled = [&](auto element) {
    const std::vector<decltype(element)> values(static_cast<size_t>(count), element);
    std::vector<uint8_t> bytes(values.size() * sizeof(element));
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  };
  switch (dtype) {
    case DType::kFloat32:
      return filled(0.5F);
    case DType::kFloat16:
      return filled(uint16_t{0x3800});
    case DType::kBFloat16:
      return filled(uint16_t{0x3F00});
    case DType::kInt64:
      return filled(int64_t{0});
    case DType::kInt32:
      return filled(int32_t{0});
    case DType::kBool:
      return filled(uint8_t{1});
  }
  return {};
}

// One run at these sizes; those of symbols that no input has are what the session takes.
void run_once(Session& session, SymbolSizes sizes) {
  const Program& p = session.model().program();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (!is_bound(p, i)) sizes[i] = 1;
  if (const auto context = program::context_symbol(p))
    sizes[*context] = session.position() + program::appended_positions(p)->at(sizes);
  std::vector<std::vector<uint8_t>> data;
  std::vector<TensorView> views;
  for (ValueId id : p.inputs) {
    const Value& v = p.value(id);
    data.push_back(elements_of(v.dtype, elements(v.shape, sizes)));
    views.emplace_back(shape_at(v.shape, sizes), v.dtype, data.back().data());
  }
  const auto outputs = session.run(views);
  if (!outputs.ok()) return expect_sentence(outputs.error());
  size_t sum = 0;  // A sanitizer sees every value read.
  for (size_t i = 0; i < outputs->size(); ++i) {
    const Value& v = p.value(p.outputs[i].value);
    EXPECT_EQ((*outputs)[i].shape, shape_at(v.shape, sizes));
    EXPECT_EQ((*outputs)[i].dtype, v.dtype);
    const auto* bytes = (*outputs)[i].as<uint8_t>();
    const int64_t count = elements(v.shape, sizes) * size_of(v.dtype);
    for (int64_t at = 0; at < count; ++at) sum += bytes[at];
  }
  EXPECT_GE(sum, 0U);
}

void run(const std::shared_ptr<const Model>& model, int64_t batch, int64_t tokens) {
  constexpr int64_t kMostBytes = 1 << 14, kRoom = 64;
  SymbolSizes sizes = program::at_batch(batch);
  sizes[1] = tokens, sizes[2] = kRoom;
  const Program& p = model->program();
  for (const ValueId id : p.states)
    if (elements(p.value(id).shape, sizes) > kMostBytes) return;
  const auto plan = make_plan(*model, sizes, 1);
  if (!plan.ok()) return expect_sentence(plan.error());
  if (plan->arena_bytes > kMostBytes) return;  // A valid program may well be a large one.
  auto session = Session::create(model).value();
  for (int times = 0; times < 2; ++times) run_once(*session, sizes);
}

// A node's outputs get these types, and the program as many values.
void set_outputs(Program& p, const std::vector<program::TensorType>& types) {
  std::vector<ValueId>& outputs = p.nodes[0].outputs;
  while (outputs.size() > types.size()) {
    p.values.pop_back();
    p.outputs.pop_back();
    outputs.pop_back();
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (i == outputs.size()) {
      const std::string name = program::output_name("y", i);
      outputs.push_back(static_cast<ValueId>(p.values.size()));
      p.outputs.push_back({name, outputs.back()});
      p.values.push_back({types[i], name});
    }
    static_cast<program::TensorType&>(p.values[static_cast<size_t>(outputs[i])]) = types[i];
  }
}

// Shows a program, as it is at the end of a scope, in which something failed.
class ShownOnFailure {
 public:
  explicit ShownOnFailure(const Program& p) : p_(p), failures_(failures()) {}
  ShownOnFailure(const ShownOnFailure&) = delete;
  ShownOnFailure& operator=(const ShownOnFailure&) = delete;
  ~ShownOnFailure() {
    if (failures() > failures_) ADD_FAILURE() << format::bit::graph_to_json(p_);
  }

 private:
  static int failures() { return ::testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count(); }

  const Program& p_;
  int failures_;
};

// `p` is refused, or runs.
void check(Program p) {
  const ShownOnFailure shown(p);
  fit_data(p);
  const auto types = infer_types(p, p.nodes[0]);
  if (types.ok()) {
    for (const program::TensorType& type : *types) EXPECT_TRUE(is_valid(type.shape)) << p.show(type.shape);
    set_outputs(p, *types);
  } else {
    expect_sentence(types.error());
  }
  if (const auto read = format::bit::graph_from_json(format::bit::graph_to_json(p)); !read.ok())
    expect_sentence(read.error());
  const Status status = verify(p);
  if (!status.ok()) return expect_sentence(status.error());
  ASSERT_TRUE(types.ok());
  const auto model = Model::create(p);
  if (!model.ok()) return expect_sentence(model.error());
  for (int64_t batch : {0, 1, 3})
    for (int64_t tokens : {1, 4}) run(*model, batch, tokens);
  for (int64_t size : {int64_t{1} << 20, int64_t{1} << 40, int64_t{1} << 44, kMostInt}) {  // memory is counted, not taken
    SymbolSizes all;
    all.fill(size);
    for (const SymbolSizes& sizes : {program::at_batch(size), all})
      if (const auto plan = make_plan(**model, sizes, 1024); !plan.ok()) expect_sentence(plan.error());
  }
}

class EdgesOf : public ::testing::TestWithParam<size_t> {
 protected:
  static std::vector<Program> examples() {
    const Op op = static_cast<Op>(GetParam());
    std::vector<Program> list;
    for (const Variant& variant : variants(op)) list.push_back(example_of(op, variant));
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
  } else if (const auto* shape = std::get_if<Shape>(&value)) {
    for (size_t i = 0; i < shape->size(); ++i)
      for (const Dim& edge : edge_dims()) {
        Shape changed = *shape;
        changed[i] = edge;
        set(changed);
      }
    for (size_t count : {size_t{0}, shape->size() - 1, shape->size() + 1, size_t{5000}}) set(Shape(count, 1));
  } else {
    for (const char* edge : {"", "none", "int4", "int8_static", "int9", "float16", "bfloat16", "int64", "bool"})
      set(std::string(edge));
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
        for (const Dim& edge : edge_dims()) {
          Shape changed = shape;
          changed[i] = edge;
          set(changed);
        }
      for (int64_t edge : kEdges) set(Shape(shape.size(), edge));
      for (int64_t rank = 0; rank <= program::kMaxRank + 1; ++rank) {
        Shape changed = shape;
        changed.resize(static_cast<size_t>(rank), 1);
        set(changed);
      }
    }
}

// A size is changed wherever it stands, so that shapes still agree.
TEST_P(EdgesOf, EverySizeInAllShapes) {
  for (const Program& original : examples()) {
    std::vector<Dim> sizes;
    for (const Value& v : original.values)
      for (const Dim& dim : v.shape)
        if (std::find(sizes.begin(), sizes.end(), dim) == sizes.end()) sizes.push_back(dim);
    for (const Dim& size : sizes)
      for (const Dim& edge : edge_dims())
        with(original, [&](Program& p) {
          for (Value& v : p.values) std::replace(v.shape.begin(), v.shape.end(), size, edge);
          for (auto& [key, attribute] : p.nodes[0].attributes)
            if (auto* shape = std::get_if<Shape>(&attribute)) std::replace(shape->begin(), shape->end(), size, edge);
        });
  }
}

TEST_P(EdgesOf, EverySymbol) {
  for (const Program& original : examples()) {
    for (size_t i = 0; i < original.symbols.size(); ++i) {
      for (int64_t edge : kEdges) {
        with(original, [&](Program& p) { p.symbols[i].min = edge; });
        with(original, [&](Program& p) { p.symbols[i].max = edge; });
        with(original, [&](Program& p) { p.symbols[i].min = p.symbols[i].max = edge; });
      }
      with(original, [&](Program& p) { p.symbols[i].is_context = !p.symbols[i].is_context; });
      for (const char* name : {"", "2", "batch", "a*b", "a^2", "a b", "[a]"})
        with(original, [&, name = name](Program& p) { p.symbols[i].name = name; });
    }
    with(original, [&](Program& p) { p.symbols.clear(); });
    with(original, [&](Program& p) { p.symbols.resize(9, {"s"}); });
  }
}

TEST_P(EdgesOf, EveryType) {
  for (const Program& original : examples())
    for (size_t v = 0; v < original.values.size(); ++v) {
      for (const DType dtype :
           {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt64, DType::kInt32, DType::kBool})
        with(original, [&](Program& p) { p.values[v].dtype = dtype; });
      for (const Storage storage :
           {Storage::kPlain, Storage::kFloat16, Storage::kBFloat16, Storage::kTernary, Storage::kInt8})
        with(original, [&](Program& p) { p.values[v].storage = storage; });
    }
}

INSTANTIATE_TEST_SUITE_P(Ops, EdgesOf, ::testing::Range<size_t>(0, program::op_schemas().size()),
                         [](const auto& param) { return program::op_schemas()[param.param].name; });

}  // namespace
}  // namespace bitlab::runtime
