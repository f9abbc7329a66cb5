// A network as data: what capture makes, files hold and the runtime runs. Values are defined once, nodes stand in execution order.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

enum class ValueKind { kInput, kConstant, kState, kResult };

// How the elements of a constant are stored: as their dtype says, or in fewer bytes. Readers see the dtype.
enum class Storage { kPlain, kFloat16, kBFloat16, kTernary, kInt8 };
std::string_view name(Storage storage);                // "plain", "float16", "bfloat16", "ternary", "int8"
Result<Storage> parse_storage(std::string_view name);  // error: UnknownName

// The value of 16 bits of a storage in them.
float widened(uint16_t bits, Storage storage);

struct Value : TensorType {
  std::string name;  // unique
  ValueKind kind = ValueKind::kResult;
  Storage storage = Storage::kPlain;  // other ones: of float32 constants
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
// Floats in half the bytes: IEEE 754 binary16, or bfloat16, as the value's storage says.
struct HalfData {
  std::span<const uint16_t> bits;
};
// Elements of any other dtype, as they lie in memory.
struct RawData {
  std::span<const uint8_t> bytes;
};

struct Constant {
  ValueId value = kNone;
  std::variant<FloatData, HalfData, TernaryData, Int8Data, RawData> data;
  std::shared_ptr<const void> storage = nullptr;  // keeps what the data's spans point to
};

using Sizes = std::vector<int64_t>;
using Attribute = std::variant<int64_t, Sizes, std::string, double, Shape>;
using Attributes = std::map<std::string, Attribute>;

struct Node {
  Op op;
  std::string name;              // unique; for messages and profiles
  std::vector<ValueId> inputs;   // as in the schema
  std::vector<ValueId> outputs;  // one or more
  Attributes attributes;
  Exactness exactness =
      Exactness::kBounded;  // of these results beside LibTorch's: the schema's, or what capture knows better

  ValueId output() const { return outputs.front(); }
  // The attribute must be there with that type, which verify() guarantees.
  template <class T>
  const T& attribute(const char* key) const {
    return std::get<T>(any_attribute(key));
  }
  const Attribute& any_attribute(const char* key) const;
};

struct Output {
  std::string name;  // unique among the outputs
  ValueId value = kNone;
};

struct Program {
  Symbols symbols{{"batch", 0}};
  std::vector<Value> values;
  std::vector<Constant> constants;  // in ascending order of their values
  std::vector<Node> nodes;
  std::vector<ValueId> inputs;
  std::vector<Output> outputs;
  std::vector<ValueId> states;                  // what a session keeps from run to run
  std::map<std::string, std::string> metadata;  // "model", "image", …: for people and pipelines, not for execution

  const Value& value(ValueId id) const { return values[static_cast<size_t>(id)]; }
  const Constant* constant(ValueId id) const;
  // The values of a float32 constant that is stored as floats, in 32 bits or 16; none of others.
  std::vector<float> floats(ValueId id) const;
  // The program's inputs and outputs.
  Signature signature() const;
  // A shape or a size in the names of the symbols.
  std::string show(const Shape& shape) const { return to_string(shape, symbols); }
  std::string show(const Dim& dim) const { return to_string(dim, symbols); }
  // Whether every node gives the same bits as LibTorch in eval.
  bool is_exact() const;
};

// The positions that a run appends to the states: the number of keys of the nodes that have them. Nothing without states.
std::optional<Dim> appended_positions(const Program& program);
// The symbol of a program with states that counts what they hold; nothing without.
std::optional<size_t> context_symbol(const Program& program);

// Adds what a node may leave out: kNone for optional inputs at the end of its list, and attributes that have a value then; a list where it has a shape is one.
void complete(Node& node);

// What a node's outputs are called: "split", "split:1", "split:2".
std::string output_name(const std::string& node, size_t output);

// Rows and depth of a weight's matrix.
int64_t weight_rows(const Shape& shape);
int64_t weight_depth(const Shape& shape);

// The types of a node's outputs from those of its inputs. Errors: ShapeMismatch, InvalidArgument, Unsupported, naming the node.
// The node must fit its schema (verify()).
Result<std::vector<TensorType>> infer_types(const Program& program, const Node& node);

// The scales of a ternary constant, as in TernaryData. Plain lists of one scale a row or tensor are the common case.
struct TernaryScales {
  std::vector<float> scale{}, scale_neg{};
  std::vector<uint16_t> group_scale{};
  int64_t group = 0;
  TernaryScales() = default;
  TernaryScales(std::vector<float> plain) : scale(std::move(plain)) {}  // NOLINT(google-explicit-constructor)
  TernaryScales(std::initializer_list<float> plain) : scale(plain) {}
};

// Builds a program value by value; types follow from the rules. A constant with the type and bytes of one that is there already is that one.
class ProgramBuilder {
 public:
  // A size that differs from run to run: declared at its first use. The batch is there from the beginning.
  Dim symbol(std::string_view name, int64_t min = 1, int64_t max = kMaxElements) {
    return declared(program_.symbols, name, min, max);
  }
  // The same with all that a symbol says; the one of that name is replaced.
  void declare(const Symbol& symbol);
  // Raises the least sizes of symbols so that a size without the batch is at least a number.
  void at_least(const Dim& dim, int64_t least);
  ValueId input(std::string name, Shape shape, DType dtype = DType::kFloat32);
  // What a session keeps: a float32 shape with the context as one of its sizes.
  ValueId state(std::string name, Shape shape);
  ValueId floats(std::string name, std::vector<int64_t> shape, std::vector<float> data);
  // Floats that are stored as float16 or bfloat16.
  ValueId halves(std::string name, std::vector<int64_t> shape, std::vector<uint16_t> bits, Storage storage);
  ValueId raw(std::string name, DType dtype, std::vector<int64_t> shape, std::vector<uint8_t> bytes);
  ValueId ternary(std::string name, std::vector<int64_t> shape, std::vector<uint8_t> codes, TernaryScales scales);
  ValueId int8(std::string name, std::vector<int64_t> shape, std::vector<int8_t> t, std::vector<float> scale);
  // A node of one output, or of several.
  Result<ValueId> node(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes = {});
  Result<std::vector<ValueId>> nodes(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes = {});
  // Of the node that was added last.
  void set_exactness(Exactness exactness) { program_.nodes.back().exactness = exactness; }
  void metadata(std::string key, std::string text) { program_.metadata[std::move(key)] = std::move(text); }
  const Program& peek() const { return program_; }
  // Verifies. The builder is empty afterwards. Values alone: an only output is called "output", several by their values' names.
  Result<Program> finish(std::vector<Output> outputs);
  Result<Program> finish(const std::vector<ValueId>& outputs);
  Result<Program> finish(std::initializer_list<ValueId> outputs) { return finish(std::vector<ValueId>(outputs)); }

 private:
  ValueId add(std::string name, ValueKind kind, TensorType type, Storage storage = Storage::kPlain);
  template <class Data>
  ValueId add_constant(std::string name, DType dtype, Storage storage, const std::vector<int64_t>& shape, Data data,
                       std::shared_ptr<const void> owner);
  Program program_;
  std::unordered_multimap<size_t, ValueId> constants_;  // by a hash of type, storage and bytes
};

}  // namespace bitlab::program
