// From a PyTorch checkpoint into a model: names and shapes are compared, and what does not fit is explained.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "bitlab/train/pytorch_file.h"

namespace bitlab::train {

// read_pytorch_file() with floating-point tensors as float32: half, bfloat16 and float8 exactly, double rounded to nearest, beyond float32's
// range to infinity. Integers, bool and complex numbers stay. Errors: those of read_pytorch_file().
Result<StateDict> load_state_dict(const std::filesystem::path& path);

// Names that begin with `prefix` lose it. Error: InvalidArgument (two names become the same).
Result<State> strip_prefix(const State& state, std::string_view prefix);

// The parameters and buffers of a module, by name: not copies.
State state_of(const torch::nn::Module& module);

struct StateDictDiff {
  struct Entry {
    std::string name;
    std::optional<std::vector<int64_t>> model, file;  // its shapes
  };
  std::vector<Entry> missing;     // in the model, not in the file
  std::vector<Entry> unexpected;  // in the file, not in the model
  std::vector<Entry> reshaped;    // in both, of different shapes
  std::string prefix;             // whose removal from the file's names would make the most of them match; empty: of none

  bool empty() const { return missing.empty() && unexpected.empty() && reshaped.empty(); }
};

using NamePredicate = std::function<bool(std::string_view name)>;

// Names for which `may_miss` holds are not missed.
StateDictDiff compare(const State& model, const State& file, const NamePredicate& may_miss = {});

// A paragraph for each kind of difference, at most 20 lines of each with aligned names, shapes and the nearest name on the other side;
// then the prefix. Empty without differences.
std::string to_text(const StateDictDiff& diff);

// Copies `state` into the module's parameters and buffers; those for which `may_miss` holds may be absent and keep their values. All or
// nothing. Errors: UnknownName (a name is missing or unknown), ShapeMismatch, TypeMismatch (integers for floats, or the reverse).
Status load_into(torch::nn::Module& module, const State& state, const NamePredicate& may_miss = {});

}  // namespace bitlab::train
