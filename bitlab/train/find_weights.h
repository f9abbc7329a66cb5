// Which tensors of a checkpoint are a model's weights: checkpoints hold optimizers, averages and teachers beside them, and wrappers of modules
// leave their names in those of the weights.
#pragma once

#include <functional>
#include <string_view>

#include "bitlab/train/pytorch_file.h"

namespace bitlab::train {

using NamePredicate = std::function<bool(std::string_view name)>;

struct WeightsOptions {
  std::string key{};     // the part of the file: "state_dict_ema"; ".": the file as a whole; "": wherever the weights are
  std::string prefix{};  // names in the part that begin with it lose it
  NamePredicate may_miss{};  // names of the model that the file need not have
};

struct FoundWeights {
  // Indices into PytorchFile::entries(), by the names of the model, or those of the file for what the model lacks.
  std::map<std::string, size_t> entries;
  std::vector<std::string> notes;  // what was chosen and renamed, a sentence each
};

// The names of the model's tensors, those of one memory together (tied weights).
std::vector<std::vector<std::string>> tied_names(const State& model);

// Names of the model that are not among a file's: `has` says which are. Not missed are those for which `may_miss` holds, the
// `num_batches_tracked` of batch norms, which PyTorch has since 0.4.1, and those of a memory that the file has under another name.
std::vector<std::string> missing_names(const State& model, const std::function<bool(const std::string&)>& has,
                                       const NamePredicate& may_miss);

// A part is all that has names with one beginning: a dictionary ("state_dict"), one within others ("ema.model"), or a module within a
// state_dict ("state_dict.student"), the last only if it has all of the model. Names match if they are equal but for the wrappers' names
// "module" (DataParallel) and "_orig_mod" (torch.compile), at any level. The part whose names and shapes match most is taken. Among equals a
// conventional one ("state_dict", "model_state_dict", "model", or the file as a whole) is, where all others are named as averages, teachers or
// gradients. In a file without any match it is the first conventional one.
//
// Tensors of the part that the model lacks are found, too, under their names in the part; but not those in dictionaries of which it has none,
// nor those of the wrapper around all that it has. Errors: UnknownName (no such key; or equally good parts, which the message lists),
// Unsupported (no tensors in the file), Corrupt (a name twice).
Result<FoundWeights> find_weights(const PytorchFile& file, const State& model, const WeightsOptions& options);

}  // namespace bitlab::train
