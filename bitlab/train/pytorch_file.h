// The tensors in a file of Python's torch.save (the zip format, its default since 1.6) or of torch::jit::pickle_save. Nothing in the file is
// executed.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "bitlab/train/learner.h"

namespace bitlab::train {

// What a file holds, as a list of named tensors that are not read yet. Keys of nested dictionaries (and of subclasses of them) and positions
// in lists are joined with '.': {"encoder": {"weight": t}} has "encoder.weight".
//
// The file is untrusted: a tensor lies within its storage, all tensors together have at most 64 values for each byte of the file, and names
// are printable. What is no tensor under a name is skipped, whatever it is: extra states of modules, states of optimizers, keys that are
// neither texts nor numbers, containers more than 16 deep or within themselves. Containers have at most 100,000 entries and one for each
// byte of the pickle; more come of a short pickle that stands for a large tree.
class PytorchFile {
 public:
  struct Entry {
    std::string name;
    std::string container;                      // the name of what holds it: "" is the file's root
    std::optional<std::vector<int64_t>> sizes;  // none where read() would refuse the tensor
    const void* identity = nullptr;             // equal for what is one object in Python
  };

  // Errors: NotFound, IoError, Corrupt (a damaged file), Unsupported (the format before 1.6, safetensors, TorchScript, a whole module instead
  // of its state_dict()).
  static Result<PytorchFile> open(const std::filesystem::path& path);

  const std::vector<Entry>& entries() const { return entries_; }  // in the order of the file
  // Contiguous, on the CPU, in the dtype of the file. Errors: Corrupt, Unsupported (sparse, quantized, nested or meta tensors).
  Result<at::Tensor> read(const Entry& entry);
  // All but the entries with names in `wanted`, with its types: "epoch (int)", "args (argparse.Namespace)". A container without any that is
  // wanted is one line.
  std::vector<std::string> skipped(const std::set<std::string>& wanted) const;

 private:
  struct Content;
  PytorchFile() = default;

  std::shared_ptr<Content> content_;
  std::vector<Entry> entries_;
};

// Every tensor of a file, by its name. Errors: those of PytorchFile; Corrupt (two tensors of one name).
Result<State> read_pytorch_file(const std::filesystem::path& path);

}  // namespace bitlab::train
