// Checkpoints: a dictionary of tensors in PyTorch's own format, so that torch.load(path, weights_only=True) reads it too.
#pragma once

#include <filesystem>

#include "bitlab/train/learner.h"

namespace bitlab::train {

// Written atomically, with tensors of the CPU, wherever they are: a machine without the device reads them. Error: IoError.
Status save_checkpoint(const State& state, const std::filesystem::path& path);

// Errors: those of read_pytorch_file().
Result<State> load_checkpoint(const std::filesystem::path& path);

}  // namespace bitlab::train
