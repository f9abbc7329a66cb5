// The tensors in a file of Python's torch.save (the zip format, its default since 1.6) or of torch::jit::pickle_save. Nothing in the file is
// executed.
#pragma once

#include <filesystem>

#include "bitlab/train/learner.h"

namespace bitlab::train {

// What a file holds. Names of nested dictionaries are joined with '.': {"encoder": {"weight": t}} is "encoder.weight".
struct StateDict {
  State tensors;                     // contiguous, on the CPU, in the dtype of the file
  std::vector<std::string> skipped;  // "epoch (int)", "args (argparse.Namespace)": what is no tensor, with its type
};

// Dictionaries "state_dict", "model_state_dict" or "model", the first of these that the file has, stand for the whole file (Lightning, timm);
// what lies beside them, and the state of optimizers, is skipped. Tensors may be views, share storages, be parameters or tensor subclasses.
//
// The file is untrusted: a tensor lies within its storage, all tensors together have at most 64 values for each byte of the file, and names
// are printable. Errors: NotFound, IoError, Corrupt (a damaged file), Unsupported (the format before 1.6, safetensors, TorchScript, a whole
// module instead of its state_dict(), sparse or quantized tensors).
Result<StateDict> read_pytorch_file(const std::filesystem::path& path);

}  // namespace bitlab::train
