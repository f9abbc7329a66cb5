// From a PyTorch checkpoint into a model: names and shapes are compared, and what does not fit is explained.
#pragma once

#include "bitlab/train/find_weights.h"

namespace bitlab::train {

// A model's weights in a checkpoint.
struct StateDict {
  State tensors{};                     // contiguous, in the dtype of the file
  std::vector<std::string> skipped{};  // what else the file holds, with its type: "epoch (int)", "args (argparse.Namespace)"
  std::vector<std::string> notes{};    // where in the file they are and how names were changed, a sentence each
};

// Those of a file that find_weights() finds for the model. Nothing else is read: what the model lacks has a shape alone (device meta). Errors:
// those of find_weights() and of PytorchFile.
Result<StateDict> load_state_dict(const std::filesystem::path& path, const State& model, const WeightsOptions& options = {});

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

// Missing are missing_names().
StateDictDiff compare(const State& model, const State& file, const NamePredicate& may_miss = {});

// A paragraph for each kind of difference, at most 20 lines of each with aligned names, shapes and the nearest name on the other side;
// then the prefix. Empty without differences.
std::string to_text(const StateDictDiff& diff);

// Error: NotFinite (a NaN, an infinity, or a value that is one in float32), with the index of the first one and how many there are.
Status check_finite(const State& state);

// Copies `state` into the module's parameters and buffers, floating-point values as float32, rounded to nearest; missing_names() must be none,
// and what the file need not have keeps its values. All or nothing. Errors: UnknownName (a name is missing or unknown), ShapeMismatch,
// TypeMismatch (integers for floats, or the reverse), InvalidArgument (different values for tied weights).
Status load_into(torch::nn::Module& module, const State& state, const NamePredicate& may_miss = {});

}  // namespace bitlab::train
