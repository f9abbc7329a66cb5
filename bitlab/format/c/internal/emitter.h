// What the forms of operations in C are written with: where values lie, constants, scratch, lines.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/format/c/c.h"
#include "bitlab/format/c/internal/helpers.h"
#include "bitlab/format/c/internal/integers.h"
#include "bitlab/program/placement.h"
#include "bitlab/program/strided_view.h"

namespace bitlab::format::c {

// Element types in C: floats, and bytes of int8 scratch and of bool, share a block of memory; wider integers have their own, since C forbids to read
// memory as another type than it was written as. In a network in integers int32 takes the place of floats, and int16 the last block.
enum class Type { kFloat, kInt64, kInt32, kBool, kInt8, kInt16 };
std::string_view name(Type type);  // "float", "int64_t", "int32_t", "uint8_t", "int8_t", "int16_t"
int64_t size_of(Type type);
// Error: Unsupported, of float16 and bfloat16.
Result<Type> type_of(const program::Value& value);

using View = program::StridedView;

// Of a variant: how weights are packed, "2bit" or "base3"; whether the network is one in integers.
std::string_view packing_of(std::string_view variant);
bool is_in_integers(std::string_view variant);

// Values that share memory: results of reshapes, and of operations that may overwrite what nothing reads any more.
class Roots {
 public:
  // `types`: of the values in C.
  Roots(const program::Program& program, const program::SymbolSizes& sizes, const std::vector<Type>& types);
  program::ValueId of(program::ValueId id) const { return root_[static_cast<size_t>(id)]; }
  // From the node that writes it first to the last that reads one that shares it.
  const program::Lifetime& life(program::ValueId root) const { return lives_[static_cast<size_t>(root)]; }

 private:
  void share(program::ValueId from, program::ValueId to);
  std::vector<program::ValueId> root_;
  std::vector<program::Lifetime> lives_;
};

class Emitter {
 public:
  // `plan`: of a network in integers, whose program it is.
  Emitter(const program::Program& program, const Options& options, const IntegerPlan* plan = nullptr);

  const program::Program& program() const { return p_; }
  std::vector<int64_t> shape(program::ValueId id) const { return shape_at(p_.value(id).shape, options_.sizes); }
  int64_t count(program::ValueId id) const { return elements(p_.value(id).shape, options_.sizes); }
  Type type(program::ValueId id) const { return types_[static_cast<size_t>(id)]; }
  const IntegerPlan& plan() const { return *plan_; }  // of a network in integers
  const program::SymbolSizes& sizes() const { return options_.sizes; }

  // The first element of a value, as an expression; "NULL" of kNone.
  std::string pointer(program::ValueId id);
  // Memory of this node alone.
  std::string scratch(Type type, int64_t count);
  // An array of constants with this name; it is emitted once.
  std::string floats(program::ValueId id);
  // A `product` of a weight and its bias, of activations with this limit and step; rows of it are computed by `row`.
  std::string product(program::ValueId weight, program::ValueId bias, double limit, float step);
  // A weight as an array of constants, what its rows are ("plain", "groups", "asymmetric" or "int8"), and how long each is.
  struct Weights {
    std::string array, kind;
    int64_t row_bytes;
  };
  Weights weights(program::ValueId weight);
  // An array of constants; "NULL" of none.
  std::string integers(const std::vector<int32_t>& numbers);
  // A constant of any type in C with an initializer.
  std::string constant(std::string_view type, std::string_view initializer);

  void need(std::string_view helpers) { helpers_.need(helpers); }
  void uses_libm() { exact_ = false; }  // beyond what IEEE 754 fixes
  void add_macs(int64_t count) { macs_ += count; }
  void line(std::string_view text);
  // A call that gives 0 where the run must end.
  void check(std::string_view call);
  struct Operand {
    program::ValueId id;
    View view;
  };
  // y = expression of a, b, c: the elements of the inputs that meet, in nested loops.
  void loops(const Operand& y, const std::vector<Operand>& inputs, std::string_view expression);
  // Values of an input to places of an output.
  void copy(const Operand& y, const Operand& x) { loops(y, {x}, "a"); }

  // Everything, node by node. Errors as serialize().
  Result<Source> run();

 private:
  Status check_program() const;
  void place(size_t node);
  std::string memory(Type type, int64_t offset) const;
  std::string array(std::string_view type, const std::vector<std::string>& numbers, int64_t bytes);
  size_t block_of(Type type) const;
  Result<std::string> arenas() const;
  std::string parameters(bool of_floats) const;
  int64_t bytes_of_ports() const;
  std::string float_run();
  std::string size_report() const;
  std::string header() const;
  void copy_outputs();

  const program::Program& p_;
  const Options& options_;
  const IntegerPlan* plan_;
  std::vector<Type> types_;         // of values; of those without one in C, any
  std::vector<std::string> ports_;  // parameters of the function: inputs, then outputs
  Roots roots_;
  Helpers helpers_;
  std::map<program::ValueId, std::string> pointers_;  // of roots
  std::array<program::Placement, 3> memory_;          // bytes, int64, int32 or int16
  std::string constants_, body_;
  std::vector<int64_t> refusing_;             // nodes that can end the run
  std::map<std::string, std::string> known_;  // constants by what they hold
  int64_t node_ = 0, flash_ = 0, macs_ = 0, names_ = 0;
  bool exact_;
};

// What computes a node. Error: Unsupported, naming it.
Status emit(Emitter& emitter, const program::Node& node);
Status emit_integers(Emitter& emitter, const program::Node& node);  // in a network in integers

// Windows over images, as a constant of the source.
struct Window {
  std::string name;
  int64_t pixels, channels, positions, taps;
};
// `kernel`: its sizes; attributes that a node lacks are those of a window that moves by 1. Error: Unsupported.
Result<Window> window_of(Emitter& emitter, const program::Node& node, std::span<const int64_t> kernel, int64_t groups);
// That of a convolution, whose kernel is its weight's.
Result<Window> conv_window(Emitter& emitter, const program::Node& node, program::ValueId weight);

// "in_x" and "out_y" of all inputs and outputs, no two alike.
std::vector<std::string> port_names(const program::Program& program);

// Text for a comment.
std::string commented(std::string_view text);

}  // namespace bitlab::format::c
