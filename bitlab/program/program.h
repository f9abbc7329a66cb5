// A network as data: what capture makes, files hold and the runtime runs. Values are defined once, nodes stand in execution order.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/program/op.h"
#include "bitlab/program/shape.h"

namespace bitlab::program {

using ValueId = int32_t;
inline constexpr ValueId kNone = -1;  // an optional input that is left out

enum class ValueKind { kInput, kConstant, kResult };
enum class DType { kFloat32, kTernary, kInt8, kInt64 };
std::string_view name(DType dtype);  // "float32", "ternary", "int8", "int64"

struct Value {
  std::string name;  // unique
  ValueKind kind;
  DType dtype;  // kTernary, kInt8: constants alone; kInt64: inputs alone
  Shape shape;  // of a constant: numbers only
};

// Ternary weights: shape [rows, depth] of a linear layer or a table, [rows, kernel..., channels / groups] of a convolution; codes as in
// ternary/codes.h with depth = product of all but the first size. Float constants of a convolution have the same order.
struct TernaryData {
  std::span<const uint8_t> codes;
  std::span<const float> scale;        // [1] or [rows]; of t = +1 where there is scale_neg; empty where there is group_scale
  std::span<const float> scale_neg{};  // as scale: of t = -1
  std::span<const uint16_t> group_scale{};  // float16 [rows, ceil(depth / group)]
  int64_t group = 0;                        // k that share a scale: 64, 128 or 256; 0: none
};
// Weights that are kept in int8: shapes as of ternary ones, t in [-127, 127], at most ternary::kMaxInt8Depth deep.
struct Int8Data {
  std::span<const int8_t> t;
  std::span<const float> scale;  // [1] or [rows]
};
using FloatData = std::span<const float>;

struct Constant {
  ValueId value = kNone;
  std::variant<FloatData, TernaryData, Int8Data> data;
  std::shared_ptr<const void> storage = nullptr;  // keeps what the data's spans point to
};

using Sizes = std::vector<int64_t>;
using Attribute = std::variant<int64_t, Sizes, std::string, double>;

struct Node {
  Op op;
  std::string name;             // unique; for messages and profiles
  std::vector<ValueId> inputs;  // as in the schema
  ValueId output = kNone;
  std::map<std::string, Attribute> attributes;

  // The attribute must be there with that type, which verify() guarantees.
  template <class T>
  const T& attribute(const std::string& key) const {
    return std::get<T>(attributes.at(key));
  }
};

struct Program {
  std::vector<Value> values;
  std::vector<Constant> constants;  // in ascending order of their values
  std::vector<Node> nodes;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  std::map<std::string, std::string> metadata;  // "model", "image", …: for people and pipelines, not for execution

  const Value& value(ValueId id) const { return values[static_cast<size_t>(id)]; }
  const Constant* constant(ValueId id) const;
  // Whether every node gives the same bits as LibTorch in eval.
  bool is_exact() const;
};

// Appends kNone for optional inputs that a node leaves out at the end of its list.
void complete_inputs(Node& node);

// Rows and depth of a weight's matrix.
int64_t weight_rows(const Shape& shape);
int64_t weight_depth(const Shape& shape);

// The shape of a node's output from those of its inputs. Errors: ShapeMismatch, InvalidArgument, Unsupported, naming the node.
// The node must fit its schema (verify()).
Result<Shape> infer_shape(const Program& program, const Node& node);

// The scales of a ternary constant, as in TernaryData. Plain lists of one scale a row or tensor are the common case.
struct TernaryScales {
  std::vector<float> scale{}, scale_neg{};
  std::vector<uint16_t> group_scale{};
  int64_t group = 0;
  TernaryScales() = default;
  TernaryScales(std::vector<float> plain) : scale(std::move(plain)) {}  // NOLINT(google-explicit-constructor)
  TernaryScales(std::initializer_list<float> plain) : scale(plain) {}
};

// Builds a program value by value; shapes follow from the rules. A constant with the shape and bytes of one that is there already is that one.
class ProgramBuilder {
 public:
  ValueId input(std::string name, Shape shape, DType dtype = DType::kFloat32);
  ValueId floats(std::string name, std::vector<int64_t> shape, std::vector<float> data);
  ValueId ternary(std::string name, std::vector<int64_t> shape, std::vector<uint8_t> codes, TernaryScales scales);
  ValueId int8(std::string name, std::vector<int64_t> shape, std::vector<int8_t> t, std::vector<float> scale);
  Result<ValueId> node(Op op, std::string name, std::vector<ValueId> inputs,
                       std::map<std::string, Attribute> attributes = {});
  void metadata(std::string key, std::string text) { program_.metadata[std::move(key)] = std::move(text); }
  const Program& peek() const { return program_; }
  // Verifies. The builder is empty afterwards.
  Result<Program> finish(std::vector<ValueId> outputs);

 private:
  ValueId add(std::string name, ValueKind kind, DType dtype, Shape shape);
  template <class Data>
  ValueId add_constant(std::string name, DType dtype, const std::vector<int64_t>& shape, Data data,
                       std::shared_ptr<const void> storage);
  Program program_;
  std::unordered_multimap<size_t, ValueId> constants_;  // by a hash of type, shape and bytes
};

}  // namespace bitlab::program
