// What one forward pass does, as a list of operator calls.
//
// An at::RecordFunction observer (the interface behind PyTorch's profiler) sees the tree of dispatched operators with their schemas. Outermost
// calls that can be lowered are kept (conv2d, flatten, bitlab::ternary_linear); one that cannot gives way to the calls that it makes (einsum, lstm),
// as does one that is replaced by others (ops/internal/call_observer.h).
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "bitlab/base/result.h"
#include "bitlab/nn/named_tensors.h"

namespace bitlab::deploy {

struct Argument {
  std::string name;
  c10::IValue value;
};

struct Call {
  std::string op;      // "aten::conv2d", "aten::add.Tensor"
  std::string within;  // the outermost operator that makes it, if that is another: "aten::einsum"
  std::string line;    // of the network's code, where a LineScope tells it
  std::vector<Argument> arguments;
  std::vector<c10::IValue> outputs;
  std::vector<std::vector<int64_t>> shapes;  // of the outputs when the call ended; empty for what is no tensor
  at::Tensor before;                         // of an in-place operator: what it changed, as it was
  at::Tensor memory;                         // the memory that this is a part of, as it was; undefined where it is all of it
  at::Tensor read;                           // by an index with a mask: what it takes rows of, as it was
  at::Tensor copy;  // of the first output as it was when the call ended, if asked for: later calls may work in place

  // The value of an argument that the operator's schema has.
  const c10::IValue& argument(const std::string& name) const;
  // A tensor argument; undefined where there is none.
  at::Tensor tensor(const std::string& name) const;
  std::string function() const;  // "aten::add_" of "aten::add_.Tensor"
  std::string overload() const;  // "Tensor"; empty where there is none
  bool is_in_place() const;      // "aten::add_.Tensor"
  bool is_overwriting() const;   // an in-place one that reads nothing of what is there: "aten::copy_"
  bool is_into_given() const;    // writes into memory that an argument has: "aten::mul.out", "aten::frexp.Tensor_out"
  // The shape that an output had; a later call may have given the tensor another.
  at::IntArrayRef shape_of(const at::Tensor& output) const;
};

struct Recording {
  nn::NamedTensors inputs, outputs;  // the inputs are copies of the caller's
  std::vector<Call> calls;           // their tensors stay alive, so that identities are unique
  // What Python's factories of tables return, by what their operators made last: other tensors of the same memory.
  std::unordered_map<const void*, std::vector<at::Tensor>> returned;
};

enum class Keep { kTensors, kCopies };

// What the outputs depend on. LibTorch's attention averages its weights for callers that may not want them. What works in place, or
// returns a number to the program that called it, counts as well.
struct Live {
  std::vector<bool> calls;
  std::unordered_set<const void*> tensors;  // that are arguments
  std::unordered_set<const void*> read;     // of which some argument reads the values, rather than writes over them
};
// `with_tables`: what makes a table that Python returns as another tensor of the same memory counts as read where that is.
Live live_parts(const Recording& recording, bool with_tables = false);

// Whether a call makes a table of numbers alone, which may grow with a size: arange, linspace, eye.
bool makes_table(const Call& call);

// Whether a call makes a tensor of one number, of given sizes: zeros, full. What is written into it may grow with them.
bool makes_filled(const Call& call);
// Whether it makes an image of another size.
bool is_upsampling(const Call& call);

// Whether the call reads one of the tensors; what looks at shapes alone reads none.
bool reads_any(const Call& call, const std::function<bool(const at::Tensor&)>& contains);

// The tensors that an argument or an output is or lists.
void for_each_tensor(const c10::IValue& value, const std::function<void(const at::Tensor&)>& visit);

// What views share: the memory of a tensor, or itself where it has none.
inline const void* memory_of(const at::Tensor& tensor) {
  if (!tensor.has_storage()) return tensor.unsafeGetTensorImpl();
  return tensor.storage().unsafeGetStorageImpl();
}

// For its lifetime recordings of this thread ask for the line that each call is made at.
class LineScope {
 public:
  explicit LineScope(std::function<std::string()> line);
  ~LineScope();
  LineScope(const LineScope&) = delete;
  LineScope& operator=(const LineScope&) = delete;

 private:
  std::function<std::string()> before_;
};

// Runs forward(a copy of the inputs) without gradients, and without backends whose one call hides what an operator computes. Errors of the forward
// pass are returned: those of BitLab as they are, those of LibTorch as InvalidArgument.
Result<Recording> record(const nn::Forward& forward, const nn::NamedTensors& inputs, Keep keep = Keep::kTensors);

}  // namespace bitlab::deploy
