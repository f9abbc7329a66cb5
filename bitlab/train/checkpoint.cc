#include "bitlab/train/checkpoint.h"

#include <torch/csrc/jit/serialization/pickle.h>

#include "bitlab/base/file.h"
#include "bitlab/train/pytorch_file.h"

namespace bitlab::train {

Status save_checkpoint(const State& state, const std::filesystem::path& path) {
  c10::Dict<std::string, at::Tensor> dictionary;
  for (const auto& [name, tensor] : state) dictionary.insert(name, tensor.contiguous());
  const std::vector<char> bytes = torch::jit::pickle_save(dictionary);
  return write_file_atomic(path, std::string_view(bytes.data(), bytes.size()));
}

Result<State> load_checkpoint(const std::filesystem::path& path) { return read_pytorch_file(path); }

}  // namespace bitlab::train
