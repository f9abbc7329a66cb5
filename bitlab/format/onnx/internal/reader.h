// What the operators' readers share: the model, the program that is being built, and what each of the model's names stands for.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "bitlab/format/onnx/internal/model.h"
#include "bitlab/format/onnx/internal/pasts.h"
#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

// int64 [n], or a scalar, of sizes: what Shape gives, and what is computed of it.
struct SizeList {
  program::Shape values;
  bool is_scalar = false;
};

// Whether a number of a file may count places: up to 2^40, either way.
inline bool counts_places(int64_t n) { return -program::kMaxElements <= n && n <= program::kMaxElements; }

// What a name stands for: nothing (an output that is left out), a value of the program, or what is known while the model is read.
using Operand = std::variant<std::monostate, program::ValueId, Tensor, SizeList>;
using Operands = std::vector<Operand>;

// Nodes that are read in place of one, with names of their own: a branch, a step of a loop, the body of a function.
struct InnerGraph {
  const std::vector<ModelNode>* nodes = nullptr;
  const std::vector<NamedTensor>* tensors = nullptr;  // null: none
  std::vector<std::pair<std::string_view, Operand>> inputs;
  std::vector<std::string_view> outputs;
  const ModelFunction* function = nullptr;  // which sees no names around it; null: a graph, which does
};

// By the name of a symbol: what the size of an input is a multiple of.
using Multiples = std::map<std::string, int64_t>;

// What is said of sizes that the model does not say.
struct Guess {
  std::string batch;  // the name of the size that is the batch; empty: none is
  Multiples multiples{};
  bool bounds = false;           // the smaller one of a size and a number is the size
  bool met_bound = false;        // whether there was such a pair
  const Pasts* pasts = nullptr;  // which become states; null: none do
  int64_t past = 0;              // how many positions they are read with
};

class Reader {
 public:
  Reader(const ModelFile& model, size_t file_bytes, Guess guess)
      : model_(model), guess_(std::move(guess)), opset_(model.opset), folding(file_bytes) {}
  Result<program::Program> program();
  // Of which multiples no size that was read would have been rounded, but for the batch.
  Multiples unrounded() const;
  const Guess& guess() const { return guess_; }

  // --- the node that is read
  const ModelNode& node() const { return *node_; }
  int64_t opset() const { return opset_; }
  bool has(size_t input) const { return input < node_->inputs.size() && !node_->inputs[input].empty(); }
  // The name of an input, empty where it is left out; and what it is.
  std::string_view input_name(size_t input) const { return has(input) ? node_->inputs[input] : std::string_view(); }
  const Operand& operand(size_t input) const;
  const Tensor* tensor(size_t input) const { return std::get_if<Tensor>(&operand(input)); }
  ElementType type(size_t input) const;
  program::Shape shape(size_t input) const;
  // The input where it is known. Error: Unsupported, saying what it is.
  Result<Tensor> known(size_t input, std::string_view what) const;
  // Integers of one dimension or none, that may be sizes; nothing where they are not known.
  std::optional<SizeList> sizes(size_t input) const;
  // The same of floats: whole numbers, or what sizes were cast to.
  std::optional<SizeList> sizes_as_floats(size_t input) const;
  void keep_sizes(program::ValueId floats, SizeList sizes) { sizes_of_floats_[floats] = std::move(sizes); }
  Result<Ints> integers(size_t input, std::string_view what) const;

  int64_t integer(std::string_view attribute, int64_t otherwise) const;
  Result<bool> flag(std::string_view attribute) const;  // 0, as where it is left out, or 1. Error: Corrupt
  float number(std::string_view attribute, float otherwise) const;
  std::string text(std::string_view attribute, std::string_view otherwise) const;
  std::optional<Ints> list(std::string_view attribute) const;
  std::vector<std::string_view> texts(std::string_view attribute) const;
  // Whether nothing but Concat reads the node's output.
  bool is_only_joined();
  // The results of an inner graph.
  Result<Operands> inner(const InnerGraph& graph);
  // A dimension of x, which counts from the end where it is negative. Error: Corrupt.
  Result<int64_t> axis(int64_t dim, size_t rank) const;

  template <class... Args>
  Error refuse(fmt::format_string<Args...> format, Args&&... args) const {
    return failure(ErrorCode::kUnsupported, fmt::vformat(format, fmt::make_format_args(args...)));
  }
  template <class... Args>
  Error corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return failure(ErrorCode::kCorrupt, fmt::vformat(format, fmt::make_format_args(args...)));
  }

  // --- the program
  Result<program::ValueId> value(size_t input);       // of an input, constants as they are
  Result<program::ValueId> activation(size_t input);  // the same as the result of a node, or an input of the program
  Result<program::ValueId> constant(const Tensor& tensor, std::string_view name = "");
  Result<program::ValueId> computed(const Operand& operand, std::string_view name = "");
  Result<program::ValueId> as_activation(program::ValueId id);
  const program::Value& of(program::ValueId id) const { return builder_.peek().value(id); }
  const program::Shape& shape_of(program::ValueId id) const { return of(id).shape; }
  // The node that makes a value, until the next one is emitted; null for inputs and constants.
  const program::Node* maker(program::ValueId id) const;
  // A constant of integers; null for others.
  const Tensor* integers_of(program::ValueId id) const;
  std::string show(const program::Shape& shape) const { return builder_.peek().show(shape); }
  Result<program::ValueId> emit(program::Op op, std::vector<program::ValueId> inputs, program::Attributes attributes = {});
  Result<std::vector<program::ValueId>> emit_all(program::Op op, std::vector<program::ValueId> inputs,
                                                 program::Attributes attributes = {});
  Result<program::ValueId> number(double value, program::DType dtype);  // a scalar
  Result<program::ValueId> with(program::Op op, program::ValueId x, double value);
  Result<program::ValueId> reshape(program::ValueId x, const program::Shape& shape);
  Result<program::ValueId> permute(program::ValueId x, const Ints& dims);
  Result<program::ValueId> expand(program::ValueId x, const program::Shape& shape);
  Result<program::ValueId> cast(program::ValueId x, program::DType dtype);
  Result<program::ValueId> positions(const program::Dim& size);  // int64 [size]: 0, 1, ...
  // The same, in another shape of as many values.
  Result<program::ValueId> positions(const program::Dim& size, const program::Shape& shape);
  // x with a dimension moved to the end, or the last one to where it was.
  Result<program::ValueId> to_last(program::ValueId x, int64_t dim);
  Result<program::ValueId> from_last(program::ValueId x, int64_t dim);
  Result<program::ValueId> slice(program::ValueId x, int64_t dim, int64_t start, const program::Dim& length,
                                 int64_t step = 1);
  // Values of one shape side by side along a new dimension. Error: Unsupported, for others.
  Result<program::ValueId> stack(const std::vector<program::ValueId>& parts, int64_t dim);
  // A past, which `next` continues along an axis, in front of it. A size that the model's input leaves open is the one of `next`.
  Result<program::ValueId> continued(program::ValueId past, program::ValueId next, size_t axis);
  // How many positions pasts have, where they become states; nothing where they are inputs.
  std::optional<int64_t> past() const { return guess_.pasts == nullptr ? std::nullopt : std::optional(guess_.past); }
  const program::Program& peek() const { return builder_.peek(); }
  // `before` and `behind` x along each dimension: of a constant.
  Result<program::ValueId> padded(program::ValueId x, const Ints& before, const Ints& behind, float value);
  // Integers of eight bits, or sums of their products (int32), that the program keeps as floats.
  void keep_as(program::ValueId id, ElementType type) { narrow_[id] = type; }
  // The same floats, which stand for themselves.
  Result<program::ValueId> unmarked(program::ValueId id);
  // A size that is at most n: that of a part of n values.
  void bound(const program::Dim& dim, int64_t most);
  // The same where the guess says so.
  bool may_bound(const program::Dim& dim, int64_t most);
  // What is asked of a size would be one, were it a multiple of a number.
  void prefer_multiple(const program::Dim& dim, int64_t of);
  // What ONNX cuts of a smaller size has another shape, which a program has not.
  void at_least(const program::Dim& dim, int64_t least) { builder_.at_least(dim, least); }
  // Whether a + offset <= b in every run. It may be true where this is not.
  bool is_within(const program::Dim& a, int64_t offset, const program::Dim& b) const {
    return program::is_within(a, 1, offset, b, builder_.peek().symbols);
  }
  std::string unique(std::string_view wanted);

 private:
  const ModelFile& model_;
  Guess guess_;
  Multiples preferred_;
  program::ProgramBuilder builder_;
  const ModelNode* node_ = nullptr;
  std::string scope_;
  int64_t opset_;
  struct Scope {
    std::unordered_map<std::string_view, Operand> operands{};
    Scope* around = nullptr;  // whose names are seen, too
    const ModelFunction* function = nullptr;
    const ModelNode* call = nullptr;  // of the function
  };
  Scope whole_;
  Scope* names_of_ = &whole_;
  int depth_ = 0;
  int64_t inner_nodes_ = 0;
  std::map<program::ValueId, ElementType> narrow_;
  std::map<program::ValueId, SizeList> sizes_of_floats_;
  std::unordered_map<program::ValueId, Tensor> integers_;
  std::unordered_map<program::ValueId, size_t> makers_;  // by value: the node
  std::set<std::string> names_;
  std::unordered_map<std::string, int64_t> suffixes_;  // the last one of each name that was wanted again
  std::map<program::ValueId, std::string_view> wanted_names_;
  std::optional<std::set<std::string_view>> read_names_;  // what others than Concat read, and outputs
  std::set<program::ValueId> pasts_;
  std::map<program::ValueId, program::ValueId> continued_;  // pasts, and what stands behind them
  program::Dim tokens_ = 0;                                 // of a run, where pasts become states
  std::set<program::ValueId> ones_;                         // values that are 1 everywhere

  Error failure(ErrorCode code, std::string_view why) const;
  Status declare_symbols();
  Result<program::Dim> size_of_port(const ModelPort& port, size_t axis);
  Result<program::ValueId> input_of(const ModelPort& port, program::DType dtype);
  Status add_inputs();
  Status add_pasts();
  Result<program::Dim> size_of_tokens();
  Result<program::ValueId> input_that_follows(const ModelPort& port, program::DType dtype, bool is_mask);
  bool are_ones(program::Op op, const std::vector<program::ValueId>& inputs) const;
  Result<program::ValueId> taken_of_ones(program::ValueId ones, program::ValueId places, int64_t dim);
  Operand* find(std::string_view name) const;
  const ModelFunction* function_of(const ModelNode& node) const;
  Result<Operands> call(const ModelFunction& function);
  ModelNode with_attributes(const ModelNode& node) const;
  Status settle_inputs(const ModelNode& node);
  Status add_node(const ModelNode& node);
  Status add_results(const ModelNode& node, Operands results);
  std::optional<ElementType> narrow(std::string_view name) const;
  Result<program::ValueId> as_declared(program::ValueId id, const ModelPort& port);
  Result<program::Program> finish();

 public:
  Folding folding;
};

// An expression over values of the program; the first error is what it has.
class Term {
 public:
  Term(Reader& reader, Result<program::ValueId> id) : r_(&reader), id_(std::move(id)) {}
  Result<program::ValueId> id() const { return id_; }

  Term of(program::Op op) const { return {*r_, id_.ok() ? r_->emit(op, {*id_}) : id_}; }
  Term with(program::Op op, const Term& b) const {
    if (!id_.ok() || !b.id_.ok()) return {*r_, id_.ok() ? b.id_ : id_};
    return {*r_, r_->emit(op, {*id_, *b.id_})};
  }
  Term with(program::Op op, double b) const { return with(op, like(b)); }
  Term behind(program::Op op, double a) const { return like(a).with(op, *this); }
  Term choose(const Term& a, const Term& b) const {
    for (const Term* term : {this, &a, &b})
      if (!term->id_.ok()) return *term;
    return {*r_, r_->emit(program::Op::where, {*id_, *a.id_, *b.id_})};
  }
  Term choose(double a, const Term& b) const { return choose(b.like(a), b); }
  Term cast(program::DType dtype) const { return {*r_, id_.ok() ? r_->cast(*id_, dtype) : id_}; }
  Term like(double number) const { return {*r_, id_.ok() ? r_->number(number, r_->of(*id_).dtype) : id_}; }

 private:
  Reader* r_;
  Result<program::ValueId> id_;
};
inline Term operator+(const Term& a, const Term& b) { return a.with(program::Op::add, b); }
inline Term operator-(const Term& a, const Term& b) { return a.with(program::Op::sub, b); }
inline Term operator*(const Term& a, const Term& b) { return a.with(program::Op::mul, b); }
inline Term operator/(const Term& a, const Term& b) { return a.with(program::Op::div, b); }
inline Term operator+(const Term& a, double b) { return a.with(program::Op::add, b); }
inline Term operator*(const Term& a, double b) { return a.with(program::Op::mul, b); }
inline Term operator/(const Term& a, double b) { return a.with(program::Op::div, b); }
inline Term max(const Term& a, double b) { return a.with(program::Op::maximum, b); }
inline Term min(const Term& a, double b) { return a.with(program::Op::minimum, b); }

// The program's type of elements; nothing where it has none.
std::optional<program::DType> dtype_of(ElementType type);
// Inputs: as values, which constants may be, and as what is computed.
inline Term input(Reader& r, size_t i) { return {r, r.value(i)}; }
inline Term computed_input(Reader& r, size_t i) { return {r, r.activation(i)}; }
// Whether the inputs, of which there are at least so many, are known.
bool all_known(const Reader& r, size_t least);
Status check_floats(const Reader& r, size_t input = 0);  // error: Unsupported

using OperatorReader = Result<Operands> (*)(Reader& r);
// The reader of an operator; null where there is none.
OperatorReader reader_of(std::string_view domain, std::string_view type);

// The results of one value.
inline Result<Operands> single(const Result<program::ValueId>& id) {
  if (!id.ok()) return id.error();
  return Operands{*id};
}
inline Result<Operands> single(const Term& term) { return single(term.id()); }
inline Result<Operands> single(Result<Tensor> tensor) {
  if (!tensor.ok()) return tensor.error();
  return Operands{*std::move(tensor)};
}
// Sizes; a tensor where they are numbers alone.
Operand operand_of(SizeList sizes);
Tensor tensor_of(const Ints& integers, bool is_scalar = false);  // int64 [n]

}  // namespace bitlab::format::onnx
