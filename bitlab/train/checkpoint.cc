#include "bitlab/train/checkpoint.h"

#include <caffe2/serialize/inline_container.h>

#include <torch/csrc/jit/serialization/pickler.h>

#include "bitlab/base/file.h"
#include "bitlab/train/pytorch_file.h"

namespace bitlab::train {
namespace {

// As torch::jit::pickle_save, without the tags of types around containers, which torch.load(weights_only=True) refuses.
std::string archive_of(const c10::IValue& value) {
  std::string pickle, archive;
  torch::jit::Pickler pickler([&](const char* bytes, size_t size) { pickle.append(bytes, size); }, nullptr, nullptr, nullptr,
                              nullptr, /*tag_aggregates=*/false);
  pickler.protocol();
  pickler.pushIValue(value);
  pickler.stop();
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* bytes, size_t size) {
    archive.append(static_cast<const char*>(bytes), size);
    return size;
  });
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  const auto& tensors = pickler.tensorData();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto data = torch::jit::getWriteableTensorData(tensors[i]);
    writer.writeRecord(fmt::format("data/{}", i), data.data(), data.sizeInBytes());
  }
  writer.writeEndOfFile();
  return archive;
}

}  // namespace

Status save_checkpoint(const State& state, const std::filesystem::path& path) {
  c10::Dict<std::string, at::Tensor> dictionary;
  for (const auto& [name, tensor] : state) dictionary.insert(name, tensor.cpu().contiguous());
  return write_file_atomic(path, std::string_view(archive_of(dictionary)));
}

Result<State> load_checkpoint(const std::filesystem::path& path) { return read_pytorch_file(path); }

}  // namespace bitlab::train
