// A tensor in a pickle of torch.save: the calls of PyTorch's rebuild functions (torch/_utils.py, torch/_tensor.py), read as data.
#pragma once

#include <map>
#include <optional>

#include <ATen/core/Tensor.h>

#include "bitlab/train/internal/pickle.h"
#include "bitlab/train/internal/pytorch_archive.h"

namespace bitlab::train {

// "torch.nn.modules.linear.Linear": the class or function that makes a kObject, as far as the pickle tells.
std::string maker(const PickleValue& object);

// What torch::jit::pickle_save wraps with its type, as it does every dictionary.
const PickleValue& without_type_tag(const PickleValue& value);

// Whether one of PyTorch's functions or classes of tensors makes the value: TensorReader reads it or says why not.
bool is_tensor(const PickleValue& value);

// Without a look at its values, as far as the pickle tells; none where read() would refuse the tensor.
std::optional<std::vector<int64_t>> sizes_of(const PickleValue& tensor);

// Strided tensors, parameters and subclasses of tensors become contiguous tensors on the CPU in the dtype of the file. The flags of lazy
// negation and conjugation are resolved. Whatever else a tensor can have or be is refused by its name: Unsupported; what contradicts itself:
// Corrupt.
class TensorReader {
 public:
  TensorReader(PytorchArchive& archive, uint64_t file_size) : archive_(archive), budget_(kValuesPerByte * file_size) {}
  at::Tensor read(const PickleValue& tensor);

 private:
  static constexpr uint64_t kValuesPerByte = 64;  // views may repeat values (expand), but not without end

  at::Tensor strided(const PickleValue& arguments, std::optional<at::ScalarType> dtype);
  const c10::Storage& storage_of(const std::string& key);
  uint64_t count_values(uint64_t available, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides);

  PytorchArchive& archive_;
  uint64_t budget_;
  std::map<std::string, c10::Storage> storages_;
};

}  // namespace bitlab::train
