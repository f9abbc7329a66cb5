#include "bitlab/train/checkpoint.h"

#include <torch/csrc/jit/serialization/pickle.h>

#include "bitlab/base/file.h"

namespace bitlab::train {

Status save_checkpoint(const State& state, const std::filesystem::path& path) {
  c10::Dict<std::string, at::Tensor> dictionary;
  for (const auto& [name, tensor] : state) dictionary.insert(name, tensor.contiguous());
  const std::vector<char> bytes = torch::jit::pickle_save(dictionary);
  return write_file_atomic(path, std::string_view(bytes.data(), bytes.size()));
}

Result<State> load_checkpoint(const std::filesystem::path& path) {
  BITLAB_TRY(const std::string text, read_file(path));
  try {
    State state;
    const c10::IValue value = torch::jit::pickle_load({text.begin(), text.end()});
    for (const auto& item : value.toGenericDict()) state[item.key().toStringRef()] = item.value().toTensor();
    return state;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return make_error(ErrorCode::kCorrupt, "[train] a checkpoint, got '{}' (path={})", what.substr(0, what.find('\n')),
                      path.string());
  }
}

}  // namespace bitlab::train
