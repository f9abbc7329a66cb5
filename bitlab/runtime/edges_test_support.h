// For edges_test.cc and golden_test.cc: a smallest program of each operation, in each of its forms.
#pragma once

#include <algorithm>
#include <memory>

#include "bitlab/program/verify.h"
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
using program::Storage;
using program::Value;
using program::ValueId;

// The symbols of the examples: the batch, tokens, and the context of those with states.
const Dim kTokensDim = Dim::of_symbol(1), kContextDim = Dim::of_symbol(2);

// Data of the length that a constant's shape says, where it is short; else what it was.
void fit_data(Program& p) {
  constexpr int64_t kLongest = 1 << 12;
  for (program::Constant& constant : p.constants) {
    const Value& v = p.value(constant.value);
    if (!is_valid(v.shape) || elements(v.shape, program::kOnes) > kLongest) continue;
    struct Data {
      std::vector<float> floats;
      std::vector<uint16_t> halves;
      std::vector<uint8_t> codes, bytes;
      std::vector<int8_t> t;
      float scale = 0.5F;
    };
    const auto data = std::make_shared<Data>();
    const auto count = static_cast<size_t>(elements(v.shape, program::kOnes));
    data->halves.resize(count, 0x3800);
    for (size_t i = 0; i < count; ++i) {
      data->floats.push_back(0.25F * static_cast<float>(1 + i % 5));
      data->t.push_back(static_cast<int8_t>(1 - i % 3));
    }
    data->bytes.resize(count * static_cast<size_t>(size_of(v.dtype)));
    constant.data = program::RawData{data->bytes};
    if (v.storage == Storage::kPlain && v.dtype == DType::kFloat32) constant.data = program::FloatData(data->floats);
    if (v.storage == Storage::kFloat16) constant.data = program::HalfData{data->halves};
    if (v.storage == Storage::kInt8) constant.data = program::Int8Data{data->t, {&data->scale, 1}};
    if (v.storage == Storage::kTernary && !v.shape.empty()) {
      const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape);
      data->codes.resize(static_cast<size_t>(ternary::code_bytes(rows, depth)));
      ternary::pack_codes(data->t, rows, depth, data->codes);
      constant.data = program::TernaryData{data->codes, {&data->scale, 1}, {}, {}, 0};
    }
    constant.storage = data;
  }
}

// What of a layer decides which kernels run; of other operations, which of their forms.
struct Variant {
  Storage weights = Storage::kTernary;
  int64_t channels = 4, groups = 2, transposed = 0;
  int form = 0;
};

std::vector<Variant> variants(Op op) {
  switch (op) {
    case Op::conv:
      return {{}, {.transposed = 1}};
    case Op::ternary_recurrent:
      return {{}, {.form = 1}, {.weights = Storage::kInt8}};
    case Op::ternary_linear:
    case Op::ternary_embedding:
      return {{}, {.weights = Storage::kInt8}};
    case Op::ternary_conv:  // gathered, in int8, depthwise, read in place, transposed
      return {
          {}, {.weights = Storage::kInt8}, {.channels = 6, .groups = 6}, {.channels = 32, .groups = 1}, {.transposed = 1}};
    case Op::attention:
      return {{}, {.form = 1}, {.form = 2}};
    case Op::embedding:
    case Op::reshape:
    case Op::slice:
    case Op::cat:
    case Op::expand:
    case Op::cast:
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::minimum:
    case Op::equal:
    case Op::less:
    case Op::argmax:
    case Op::cumsum:
    case Op::cumprod:
    case Op::cummax:
    case Op::prod:
    case Op::sort:
    case Op::floor_divide:
    case Op::shift_left:
    case Op::shift_right:
    case Op::slice_scatter:
    case Op::grid_sample:
      return {{}, {.form = 1}};
    case Op::recurrent:
      return {{}, {.form = 1}};
    case Op::resample:
    case Op::scatter:
      return {{}, {.form = 1}, {.form = 2}};
    default:
      return {{}};
  }
}

// A node, with its inputs and constants, added to a program under construction, which has the symbols.
class Example {
 public:
  // `prefix`: of all names.
  Example(Op op, const Variant& variant, ProgramBuilder& builder, std::string prefix = "")
      : op_(op), variant_(variant), b_(builder), prefix_(std::move(prefix)) {}

  // The node's outputs.
  std::vector<ValueId> add() {
    using Attributes = program::Attributes;
    const Attributes window{{"stride", Sizes{2, 1}},         {"padding", Sizes{1, 2}},
                            {"dilation", Sizes{2, 1}},       {"transposed", variant_.transposed},
                            {"output_padding", Sizes{0, 0}}, {"groups", variant_.groups}};
    const Shape image{variant_.channels, 5, 6};
    const std::vector<int64_t> filters{6, 3, 2, variant_.channels / variant_.groups};
    const Attributes pool{
        {"kernel_size", Sizes{3, 2}}, {"stride", Sizes{2, 1}}, {"padding", Sizes{1, 0}}, {"ceil_mode", int64_t{1}}};
    const Attributes dim{{"dim", int64_t{1}}}, scores{{"causal", int64_t{1}}, {"scale", 0.5}};
    const auto with = [](Attributes attributes, const std::string& key, const program::Attribute& value) {
      attributes[key] = value;
      return attributes;
    };
    const bool other = variant_.form == 1;
    switch (op_) {
      case Op::ternary_linear:
        return made({x({3, 8}), weights({5, 8}), floats({5})}, {{"activation", std::string("int8")}});
      case Op::ternary_recurrent: {
        const Attributes cell{
            {"cell", std::string(other ? "gru" : "lstm")}, {"activation", std::string("int8")}, {"reverse", int64_t{1}}};
        if (other) return made({x({2, 9}), weights({9, 3}), floats({9}), program::kNone, x({3})}, cell);
        return made({x({kTokensDim, 12}), weights({12, 3}), floats({12}), program::kNone, x({3}), x({3})}, cell);
      }
      case Op::recurrent:
        if (other) return made({x({2, 9}), floats({9, 3}), floats({9}), x({3})}, {{"cell", std::string("gru")}});
        return made({x({kTokensDim, 12}), floats({12, 3}), floats({12}), x({3}), x({3})},
                    {{"cell", std::string("lstm")}, {"reverse", int64_t{1}}});
      case Op::linear:
        return made({x({3, 8}), floats({5, 8}), floats({5})});
      case Op::ternary_conv:
        return made({x(image), weights(filters), floats({6})}, with(window, "activation", std::string("int8")));
      case Op::conv:
        return made({x(image), floats(filters), floats({6})}, window);
      case Op::ternary_embedding:
        return made({x({3}, DType::kInt64), weights({5, 8})});
      case Op::embedding:
        return made(
            {x({3}, DType::kInt64), other ? b_.halves(prefix_ + "h", {5, 8}, {}, Storage::kFloat16) : floats({5, 8})});
      case Op::max_pool:
        return made({x({4, 5, 6})}, with(pool, "dilation", Sizes{1, 2}));
      case Op::avg_pool:
        return made({x({4, 5, 6})}, with(with(pool, "count_include_pad", int64_t{0}), "divisor", int64_t{0}));
      case Op::batch_norm:
        return made({x({4, 5}), floats({4}), floats({4})});
#define BITLAB_UNARY(name, exactness) case Op::name:
#include "bitlab/program/elementwise.def"
      case Op::mean:
      case Op::sum:
      case Op::max:
      case Op::min:
        return made({x({4, 5})});
      case Op::argmax:
      case Op::cumsum:
      case Op::cumprod:
      case Op::cummax:
      case Op::prod:
        return made({x({4, 5}, other ? DType::kInt64 : DType::kFloat32)});
      case Op::sort:
        return other ? made({x({4, kTokensDim}, DType::kInt64)}, {{"length", Shape{kTokensDim}}, {"descending", int64_t{1}}})
                     : made({x({4, 5})}, {{"length", Shape{3}}, {"descending", int64_t{0}}});
#define BITLAB_BINARY(name, exactness) case Op::name:
#include "bitlab/program/elementwise.def"
        return other ? made({x({4, 5}, DType::kInt64), x({4, 1}, DType::kInt64)}) : made({x({4, 5}), floats({4, 1})});
#define BITLAB_COMPARISON(name) case Op::name:
#include "bitlab/program/elementwise.def"
        return other ? made({x({4, 5}, DType::kInt64), x({1, 5}, DType::kInt64)}) : made({x({4, 5}), floats({4, 1})});
#define BITLAB_INTEGER(name) case Op::name:
#include "bitlab/program/elementwise.def"
        {
          const DType dtype = other ? DType::kInt32 : DType::kInt64;
          const ValueId a = x({4, 5}, dtype), b = x({4, 1}, dtype);
          return made({a, op_ == Op::floor_divide ? at_least_1(b) : b});
        }
      case Op::where:
        return made({x({4, 1}, DType::kBool), x({4, 5}), floats({5})});
      case Op::flip:
        return made({x({4, kTokensDim, 5}, DType::kBool)}, {{"dims", Sizes{1, 2}}});
      case Op::take:
        return made({x({4, 5, 3}), x({2}, DType::kInt64)}, {{"dim", int64_t{2}}});
      case Op::slice_scatter:
        return other ? made({x({with_factor(kTokensDim, 2), 5}, DType::kBool), x({2, 5}, DType::kBool)},
                            {{"dim", int64_t{1}}, {"start", int64_t{-2}}, {"step", int64_t{1}}})
                     : made({x({9, 5}), x({3, 5})}, {{"dim", int64_t{1}}, {"start", int64_t{1}}, {"step", int64_t{2}}});
      case Op::scatter: {
        const DType dtype = other ? DType::kInt64 : DType::kFloat32;
        const std::string mode = other ? "mul" : variant_.form == 2 ? "add" : "set";
        const ValueId into = x({4, 5, 3}, dtype), indices = x({4, 2, 3}, DType::kInt64);
        return made({into, indices, x({4, 2, 3}, dtype)}, {{"dim", int64_t{2}}, {"mode", mode}});
      }
      case Op::gather:
        return made({x({4, 5, 3}), x({4, 2, 3}, DType::kInt64)}, {{"dim", int64_t{2}}});
      case Op::adaptive_max_pool:
      case Op::adaptive_avg_pool:
        return made({x({4, 5, 6})}, {{"output_size", Shape{3, 8}}});
      case Op::resample:
        return made({x({4, 5, 6})}, {{"output_size", Shape{7, 3}},
                                     {"mode", std::string(other                ? "cubic"
                                                          : variant_.form == 2 ? "cubic_antialias"
                                                                               : "linear")},
                                     {"align_corners", int64_t{other}}});
      case Op::grid_sample: {
        const ValueId picture = x({4, 5, 6});
        return made({picture, x({3, 7, 2})}, {{"mode", std::string(other ? "nearest" : "linear")},
                                              {"padding", std::string(other ? "reflection" : "zeros")},
                                              {"align_corners", int64_t{other}}});
      }
      case Op::reshape:
        return other ? made({x({kTokensDim, 4}, DType::kBool)}, {{"shape", Shape{4, kBatch * kTokensDim}}})
                     : made({x({4, 5})}, {{"shape", Shape{2, with_factor(kBatch, 10)}}});
      case Op::permute:
        return made({x({4, 5})}, {{"dims", Sizes{1, 0, 2}}});
      case Op::slice:
        return other ? made({x({with_factor(kTokensDim, 2), 5})},
                            {{"dim", int64_t{1}}, {"start", int64_t{-2}}, {"length", Shape{2}}, {"step", int64_t{1}}})
                     : made({x({9, 5})},
                            {{"dim", int64_t{1}}, {"start", int64_t{1}}, {"length", Shape{3}}, {"step", int64_t{2}}});
      case Op::cat:
        return other ? made({x({kTokensDim, 4}, DType::kInt64), x({with_factor(kTokensDim, 3), 4}, DType::kInt64)}, dim)
                     : made({x({4, 5}), x({2, 5}), x({3, 5})}, dim);
      case Op::split:
        return made({x({with_factor(kTokensDim, 6), 5}, DType::kFloat16)},
                    with(dim, "sizes", Shape{kTokensDim, with_factor(kTokensDim, 2), with_factor(kTokensDim, 3)}));
      case Op::expand:
        return other ? made({x({1, 1})}, {{"shape", Shape{kBatch, kTokensDim, 5}}})
                     : made({floats({1, 4})}, {{"shape", Shape{kBatch, 3, 4}}});
      case Op::cast:
        return other ? made({b_.raw(prefix_ + "r", DType::kInt32, {4, 5}, {})}, {{"dtype", std::string("float16")}})
                     : made({x({4, 5})}, {{"dtype", std::string("int32")}});
      case Op::positions:
        return made({}, {{"size", Shape{kTokensDim}}, {"continues", int64_t{1}}});
      case Op::rotary:
        return made({x({3, kTokensDim, 4}), b_.input(prefix_ + "positions", {kTokensDim}, DType::kInt64)},
                    {{"theta", 10000.0}});
      case Op::matmul:
        return made({x({4, 5}), x({5, 3})});
      case Op::attention:
        if (other)
          return made({x({4, kTokensDim, 5}), x({2, kTokensDim, 5}), x({2, kTokensDim, 7}), program::kNone,
                       b_.state(prefix_ + "keys", {kBatch, 2, kContextDim, 5}),
                       b_.state(prefix_ + "values", {kBatch, 2, kContextDim, 7})},
                      scores);
        return made(
            {x({4, 3, 5}), x({2, 6, 5}), x({2, 6, 7}), variant_.form == 2 ? x({1, 3, 6}, DType::kBool) : floats({3, 6})},
            scores);
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
  // A divisor.
  ValueId at_least_1(ValueId x) {
    const ValueId same = b_.node(Op::equal, prefix_ + "same", {x, x}).value();
    const std::string type(name(b_.peek().value(x).dtype));
    const ValueId one = b_.node(Op::cast, prefix_ + "one", {same}, {{"dtype", type}}).value();
    return b_.node(Op::maximum, prefix_ + "divisor", {x, one}).value();
  }
  ValueId x(const Shape& sizes, DType dtype = DType::kFloat32) {
    Shape shape{kBatch};
    shape.insert(shape.end(), sizes.begin(), sizes.end());
    return b_.input(fmt::format("{}x{}", prefix_, ++count_), shape, dtype);
  }
  ValueId floats(const std::vector<int64_t>& sizes) { return b_.floats(fmt::format("{}f{}", prefix_, ++count_), sizes, {}); }
  ValueId weights(const std::vector<int64_t>& sizes) {
    const std::string name = fmt::format("{}w{}", prefix_, ++count_);
    return variant_.weights == Storage::kInt8 ? b_.int8(name, sizes, {}, {}) : b_.ternary(name, sizes, {}, {});
  }
  std::vector<ValueId> made(std::vector<ValueId> inputs, program::Attributes attributes = {}) {
    return b_.nodes(op_, prefix_ + "y", std::move(inputs), std::move(attributes)).value();
  }

  Op op_;
  Variant variant_;
  ProgramBuilder& b_;
  std::string prefix_;
  int count_ = 0;
};

Program finished(const ProgramBuilder& b, const std::vector<ValueId>& outputs) {
  Program p = b.peek();
  for (const ValueId id : outputs) p.outputs.push_back({p.value(id).name, id});
  fit_data(p);
  return p;
}

// A small program of one node.
inline Program example_of(Op op, const Variant& variant) {
  ProgramBuilder b;
  b.symbol("tokens", 1, 6);
  if (op == Op::attention && variant.form == 1) b.declare({"context", 1, 9, true});
  return finished(b, Example(op, variant, b).add());
}

// All forms of some operations, each with inputs and outputs of its own.
inline Program program_of(const std::vector<Op>& ops) {
  ProgramBuilder b;
  b.symbol("tokens", 1, 6);
  if (std::find(ops.begin(), ops.end(), Op::attention) != ops.end()) b.declare({"context", 1, 9, true});
  std::vector<ValueId> outputs;
  for (const Op op : ops) {
    int form = 0;
    for (const Variant& variant : variants(op)) {
      const auto added = Example(op, variant, b, fmt::format("{}{}.", program::name(op), ++form)).add();
      outputs.insert(outputs.end(), added.begin(), added.end());
    }
  }
  return finished(b, outputs);
}

inline std::vector<Op> all_ops() {
  std::vector<Op> ops;
  for (size_t i = 0; i < program::op_schemas().size(); ++i) ops.push_back(static_cast<Op>(i));
  return ops;
}

}  // namespace
}  // namespace bitlab::runtime
