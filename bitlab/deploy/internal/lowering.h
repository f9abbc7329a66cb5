// Lowers recorded calls, one by one, into a program under construction.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/nn/module.h>

#include "bitlab/deploy/internal/recording.h"
#include "bitlab/deploy/signature.h"
#include "bitlab/program/program.h"

namespace bitlab::deploy {

// Whether lowerings.def has a row for the operator, and its function takes a call of these arguments.
bool has_lowering(const Call& call);

// The names of a module's parameters and buffers, by tensor.
std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module);

// Forward passes at two sizes of every symbol: what differs between them shows which sizes are multiples of which symbols. And, where a constant
// grows with symbols, one at their largest sizes.
struct Recordings {
  Signature signature;  // of the inputs
  program::SymbolSizes sizes = program::kOnes, twin_sizes = program::kOnes;
  Recording first, twin;
  // More, whose sizes and numbers alone are read: at a third size, at larger ones, and where these leave more than one form of a size, at others that
  // tell.
  std::vector<Recording> others;
  std::vector<program::SymbolSizes> other_sizes;
  std::optional<Recording> largest;
  program::SymbolSizes largest_sizes = program::kOnes;
  std::optional<Error> beyond;  // how the operators at larger sizes differ, where they do
};

// Sets the module to eval and records it at two sizes of each symbol, and at a third where there are symbols besides the batch: small ones, or, where the forward pass fails at these, as it does with indices of a larger
// example, ones above the example's. Errors: those of signature_of(), recording_sizes() and record().
// Large: above the example's, and far apart. Varied: with more samples, which are the example's in turn, each time with its values moved along: where masks of the small recordings are of one value.
enum class Samples { kFew, kLarge, kVaried };
Result<Recordings> record_all(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                              const std::optional<Signature>& signature, Samples samples = Samples::kFew);
// At largest_sizes. Errors: those of record().
Status record_largest(const Forward& forward, const NamedTensors& example, Recordings& recordings);
// One more of the others. False where the forward pass fails there, or calls other operators, which `beyond` then tells.
bool record_other(const Forward& forward, const NamedTensors& example, const program::SymbolSizes& sizes, Samples samples,
                  Recordings& recordings);

// Floats of fewer bits: programs compute with float32 and round what each operator makes, as LibTorch does on CPUs.
inline bool is_rounded(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }
// The type of a program's values for those of a tensor: of complex ones pairs.
inline at::ScalarType computed_as(at::ScalarType type) {
  if (is_narrow(type)) return at::kInt;
  return is_rounded(type) || type == at::kComplexFloat ? at::kFloat : type;
}

// constants.cc: the operator that a call is of; nothing for a frame that is none.
std::optional<c10::OperatorHandle> operator_of(const Call& call);
// constants.cc: memory that was there before a forward pass, and that it changed.
std::unordered_set<const void*> changed_memory(const Recording& recording);

// What stands for a tensor in maps.
inline const void* identity(const at::Tensor& tensor) { return tensor.unsafeGetTensorImpl(); }

// The function of lowerings.def for an operator; null where there is none.
class Lowering;
using LoweringFunction = Status (*)(Lowering& lowering, const Call& call);
LoweringFunction find_lowering(std::string_view op);

// What a call without an activation makes is a constant, with the values that were recorded.
class Lowering {
 public:
  // `names`: of the module's parameters and buffers, by tensor. `computes_tables`: constants that grow with a size are computed in each run where they
  // can be (numbers.cc).
  explicit Lowering(std::unordered_map<const void*, std::string> names, bool computes_tables = false)
      : computes_tables_(computes_tables), names_(std::move(names)) {}

  // The program of the recordings, which must outlive this.
  Result<program::Program> lower(const Recordings& recordings, std::map<std::string, std::string> metadata);

  // Whether it failed for want of a recording at the largest sizes.
  bool wants_largest() const { return wants_largest_; }
  // Whether it failed for a constant that grows with sizes, and has no largest one, or other values at each.
  bool wants_tables() const { return wants_tables_; }
  // Sizes of symbols at which a recording would tell which of several forms a size has, where it failed for want of that.
  const std::optional<program::SymbolSizes>& wants_sizes() const { return wants_sizes_; }
  // Whether it failed for masks that select too few or too many rows of the recordings.
  bool wants_variety() const { return wants_variety_; }
  // The call that it failed at.
  size_t failed_at() const { return index_; }
  // By node: the number of the call that it computes; nothing for nodes that are parts of one.
  const std::vector<std::optional<size_t>>& calls() const { return calls_; }
  // Calls that an output depends on, and those of them that made constants.
  int64_t live_calls() const { return live_calls_; }
  int64_t constant_calls() const { return constant_calls_; }

  // --- for the functions of lowering/

  // selections.cc: x[mask], of a computed mask of x's first dimensions. Error: Unsupported, where the mask selects all or none of an example.
  Status select(const Call& call);
  // Whether a tensor holds rows that a computed mask selected.
  bool is_selection(const at::Tensor& tensor) const;
  // All rows of which such a tensor holds those that a mask selects, as [rows, ...]. Error: Unsupported, for those of another mask.
  Result<program::ValueId> unselected(const Call& call, const at::Tensor& selected, const at::Tensor& mask,
                                      const at::Tensor& twin_mask);

  // Whether its values depend on the inputs.
  bool is_activation(const at::Tensor& tensor) const;
  // The activation that a tensor is, or a constant, of which nodes that take activations make one. Error: Unsupported, for what is no tensor.
  Result<program::ValueId> activation(const Call& call, const std::string& argument);
  Result<program::ValueId> value_of(const Call& call, const at::Tensor& tensor);
  // An activation, or a float constant: a tensor or a number.
  Result<program::ValueId> operand(const Call& call, const std::string& argument);
  // The same in a dtype that programs compute with.
  Result<program::ValueId> operand_as(const Call& call, const std::string& argument, at::ScalarType type);
  // x in another dtype; x itself where it has that.
  Result<program::ValueId> cast(program::ValueId x, at::ScalarType type);
  // One of a list of tensors, by its place.
  Result<program::ValueId> operand(const Call& call, const std::string& list, size_t place);
  // A float32, int64, int32 or bool constant of a tensor that is made of each recording's call: repeated where it is the same along a symbol, a part
  // of a table where it grows with one.
  Result<program::ValueId> constant_of(const Call& call, const std::function<at::Tensor(const Call&)>& get);
  // A float constant with the values of an argument; kNone where the argument is None.
  Result<program::ValueId> floats(const Call& call, const std::string& argument);
  // The same with values that were computed from it, in the canonical order of a layer's weight.
  program::ValueId constant(const at::Tensor& source, const at::Tensor& values);
  program::ValueId constant(const at::Tensor& values) { return constant(values, values); }
  // The same of float32 values among which there may be NaN.
  Result<program::ValueId> with_nan(const at::Tensor& source, const at::Tensor& values);
  program::ValueId number(const at::Scalar& value, at::ScalarType type);
  // A constant from packed codes, or from weights kept in int8. `shape` is [rows, depth] or [rows, kernel..., channels / groups].
  Result<program::ValueId> ternary(const Call& call, std::vector<int64_t> shape);

  // Adds a node. A layer is called by its weight's name (layer_of() in lowering.cc).
  Result<program::ValueId> node(program::Op op, std::vector<program::ValueId> inputs, program::Attributes attributes = {});
  Result<std::vector<program::ValueId>> nodes(program::Op op, std::vector<program::ValueId> inputs,
                                              program::Attributes attributes = {});
  // The node that was added last computes the whole call.
  void belongs_to_call() { calls_.back() = index_; }
  // Of the node that was added last, where LibTorch is known to compute as it does.
  void set_exactness(program::Exactness exactness) { builder_.set_exactness(exactness); }
  // Makes an output of the call stand for a value, whose shape must be the recorded one. What an in-place operator changes besides is lost.
  Status finish(const Call& call, program::ValueId value, const at::Tensor& output);
  Status finish(const Call& call, program::ValueId value) { return finish(call, value, call.outputs.at(0).toTensor()); }
  // An output that no value stands for: whatever reads it is refused, unless it is a view.
  void lose(const at::Tensor& output) { lost_.insert(output.unsafeGetTensorImpl()); }
  // Whether something reads an output of a call.
  bool is_read(const at::Tensor& output) const { return live_->tensors.contains(output.unsafeGetTensorImpl()); }
  // Whether all that reads a call's result are operators with this in their names.
  bool is_read_by(const Call& call, std::string_view name) const;
  // Both, for the calls that are one node.
  Status lower_to(const Call& call, program::Op op, std::vector<program::ValueId> inputs,
                  program::Attributes attributes = {});

  const program::Shape& shape(program::ValueId value) const { return builder_.peek().value(value).shape; }
  program::DType dtype(program::ValueId value) const { return builder_.peek().value(value).dtype; }
  // A shape in the names of the symbols.
  std::string show(const program::Shape& shape) const { return builder_.peek().show(shape); }
  // x in another shape; x itself where it has that.
  Result<program::ValueId> reshape(program::ValueId x, const program::Shape& shape);
  // The shape of a tensor that is made of each recording's call. Error: Unsupported, for sizes that dim_of() in signature.h has no form of.
  Result<program::Shape> shape_of(const Call& call, const std::function<std::vector<int64_t>(const Call&)>& sizes);
  // Of complex values with their pairs.
  Result<program::Shape> shape_of_output(const Call& call);
  // A size that is read from each recording's call.
  Result<program::Dim> dim_of(const Call& call, const std::function<int64_t(const Call&)>& size);
  // Whether a size is what all recordings say.
  bool is_at(const program::Dim& dim, const Call& call, const std::function<int64_t(const Call&)>& size) const;
  // Leaves out the sizes of symbols at which a size that is no number is below `least`: LibTorch refuses them, or does something else there.
  void at_least(const program::Dim& dim, int64_t least) { builder_.at_least(dim, least); }
  void keep_within(const program::Dim& size, const program::Dim& other);
  // The same call in the other recording.
  const Call& twin() const { return *twin_; }
  // Whether no other recording would tell these forms of a size, all of which fit, from each other; if one would, it is asked for.
  bool is_told(const std::vector<program::Dim>& forms);
  // Whether the recordings have one number.
  bool is_same(const Call& call, const std::function<int64_t(const Call&)>& number) const;
  // A number that is read from each recording's call: the same in every run, or one that follows from sizes (numbers.cc).
  Result<program::ValueId> number_in_all(const Call& call, const std::function<double(const Call&)>& get,
                                         at::ScalarType type);
  // A size as a value, int64 [1].
  Result<program::ValueId> size_value(const program::Dim& size);
  // Whether a size is at most another and a number, at all sizes of symbols.
  bool is_within(const program::Dim& size, const program::Dim& other, int64_t more) const {
    return program::is_within(size, 1, -more, other, builder_.peek().symbols);
  }
  // 0, 1, ..., as many as a tensor of integers has that holds these; nothing where it holds others.
  Result<program::ValueId> positions(const Call& call, const std::function<at::Tensor(const Call&)>& get_tensor);

  // Remembers that `tensor` is derived from the parameter that `source` is or is derived from.
  void derive(const at::Tensor& tensor, const at::Tensor& source);
  // The tensor that a transposed parameter is the transpose of; undefined for others.
  at::Tensor transposed(const at::Tensor& tensor) const;
  void remember_transpose(const at::Tensor& tensor, const at::Tensor& source);

 private:
  Status lower_call(const Call& call);
  Status lower_function(const Call& call);
  Result<program::ValueId> rounded(program::ValueId value, at::ScalarType type);
  Result<program::ValueId> cut(program::ValueId value, at::ScalarType type);
  Result<program::ValueId> with_ones_of(const Call& call, program::ValueId value, const at::Tensor& output);
  bool is_only_written(const Call& call) const;
  void change_in_place(const at::Tensor& changed, program::ValueId value);
  void remember_views(const Call& call);
  // Runs a function as if the call with this number were under way. The nodes that it adds are parts of none.
  template <class Function>
  auto within(size_t call, Function function);
  std::span<const program::Dim> known_sums();
  std::vector<program::SymbolSizes> all_sizes() const;
  // The sizes of the recording that a call is of.
  const program::SymbolSizes& sizes_in(const Call& call) const;
  // What `get` gives of the call in each recording.
  template <class T>
  std::vector<T> in_all(const Call& call, const std::function<T(const Call&)>& get) const {
    std::vector<T> found{get(call), get(*twin_)};
    for (const Call* other : others_) found.push_back(get(*other));
    return found;
  }
  // The size that these are in the recordings.
  std::optional<program::Dim> found_as(std::span<const int64_t> found);
  bool is_confirmed(const program::Dim& form, std::span<const int64_t> found);
  void move_to(size_t call);
  bool reads_activations(const Call& call) const;
  bool reads_selection(const Call& call) const;
  Status lower_on_all_rows(const Call& call);
  Status check_read(const Call& call) const;
  std::string random_source(const at::Tensor& tensor) const;
  // The name, or with the next free number behind it. Each result is given once.
  std::string unique_name(const std::string& name);
  // numbers.cc. How well numbers are known: as Python has them, or rounded to float32.
  enum class Precision { kDouble, kFloat };
  std::vector<program::Dim> units_of_numbers();
  // [1]; nothing where the recordings have one number, or others that follow from no size.
  Result<std::optional<program::ValueId>> number_of_sizes(const Call& call, const std::function<double(const Call&)>& get,
                                                          at::ScalarType type, Precision precision);
  Result<std::optional<program::ValueId>> numbers_of_sizes(const Call& call,
                                                           const std::function<at::Tensor(const Call&)>& get);
  Result<std::optional<program::ValueId>> sized_number(const Call& call, const std::string& argument, at::ScalarType type);
  bool differs_elsewhere(const std::function<at::Tensor(const Call&)>& get,
                         const std::function<bool(const Call&)>& is_expected) const;
  Status lower_arange(const Call& call);
  Status lower_linspace(const Call& call);
  Status lower_eye(const Call& call);
  Status lower_filled(const Call& call);
  Result<bool> lower_table(const Call& call);
  Result<program::ValueId> table_part(const Call& call, const at::Tensor& source, const at::Tensor& part,
                                      const program::Shape& whole, const program::Shape& rest,
                                      const std::function<at::Tensor(const Call&)>& get);
  Result<program::ValueId> counted(const Call& call, const at::Tensor& source, const at::Tensor& part,
                                   const program::Shape& rest, const std::function<at::Tensor(const Call&)>& get,
                                   size_t symbol);

  program::ProgramBuilder builder_;
  std::vector<program::Dim> sums_;  // of the first values_seen_ values
  size_t values_seen_ = 0;
  std::vector<std::pair<program::Dim, program::ValueId>> size_values_;
  const Recordings* recordings_ = nullptr;
  const Live* live_ = nullptr;
  size_t index_ = 0;  // of the call
  const Call* twin_ = nullptr;
  std::vector<const Call*> others_;  // in the other recordings; none where these have no such call
  std::optional<program::SymbolSizes> wants_sizes_;
  bool computes_tables_ = false, wants_largest_ = false, wants_tables_ = false, wants_variety_ = false;
  int64_t live_calls_ = 0, constant_calls_ = 0;
  std::unordered_map<const void*, std::string> names_;
  std::unordered_map<const void*, program::ValueId> values_;      // activations, by tensor
  std::unordered_map<const void*, program::ValueId> constants_;   // by tensor
  std::unordered_map<program::ValueId, at::ScalarType> rounded_;  // float32 and int32 values that hold what fewer bits can
  std::unordered_set<const void*> lost_;                          // activations that no value stands for
  std::unordered_set<const void*> asked_;                         // activations that the call under way has asked for
  // How a tensor came to be a part of another one's memory.
  struct View {
    size_t call;
    at::Tensor base, tensor;
  };
  std::unordered_map<const void*, View> views_;
  // What a tensor holds behind a write into a view of it: made where something reads it.
  class Written;
  std::unordered_map<const void*, std::shared_ptr<Written>> written_;
  // Rows that a mask selected: the value of all rows, and for each recording the mask, all rows, and the selected ones.
  struct Selection {
    struct Rows {
      at::Tensor mask, all, part;
    };
    at::Tensor by;  // the first recording's very mask
    program::ValueId value;
    std::vector<Rows> of;
  };
  std::unordered_map<const void*, Selection> selections_;
  Status check_variety(const Call& call, const Selection& selection);
  // Rows of all samples, by the places within each (sample_rows.cc): row = place + sample * rows.
  struct RowsOfSamples {
    program::ValueId value = program::kNone;
    program::Dim rows;
  };
  std::unordered_map<const void*, RowsOfSamples> rows_;
  // Lowers a call that makes, moves or reads such; false for others.
  Result<bool> lower_rows_of_samples(const Call& call);
  Result<bool> count_rows(const Call& call);
  Status take_rows(const Call& call, const RowsOfSamples& by);
  // A call on all rows in place of those that were selected, in both recordings, with what it gives; and what it gives of the selected ones.
  struct OnAllRows {
    std::array<Call, 2> calls;
    std::array<std::vector<at::Tensor>, 2> all, parts;
  };
  Result<Selection> selection_of(const Call& call);
  OnAllRows run_on_all_rows(const Call& call);
  std::unordered_set<const void*> states_;  // that both recordings changed
  // In each recording the calls that changed memory in place.
  using Writes = std::unordered_map<const void*, std::vector<size_t>>;
  Writes writes_, twin_writes_;
  std::vector<Writes> other_writes_;
  static Writes writes_of(const Recording& recording);
  // A call whose constants are as they were when it ran, where later ones changed them. Whether any was.
  bool set_back(Call& call, const Call& recorded, const Recording& recording, const Writes& writes) const;
  std::vector<at::Tensor> overwritten_;  // constants until an operator wrote activations into them
  std::unordered_map<const void*, at::Tensor> transposes_;
  std::vector<std::optional<size_t>> calls_;          // by node
  std::vector<at::Tensor> kept_;                      // whose addresses stand in the maps
  std::unordered_map<std::string, int> counts_;       // of nodes, by operation, for their names
  std::unordered_set<std::string> taken_;             // names
  std::unordered_map<std::string, int> names_taken_;  // the last number behind a name
};

}  // namespace bitlab::deploy
