// The container of a .bit file: safetensors, with 64-byte alignment and checksums. Knows tensors and text, not programs.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::format::bit {

enum class TensorType { kU8, kI8, kF16, kF32 };
std::string_view name(TensorType type);  // "U8", as in files

struct TensorView {
  TensorType type;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

// Writes the tensors in the given order. `metadata` must not use the keys of the checksums.
std::string write_safetensors(std::span<const NamedTensor> tensors, std::map<std::string, std::string> metadata);

struct Safetensors {
  std::map<std::string, TensorView> tensors;  // without the padding
  std::map<std::string, std::string> metadata;
};

// Views into `bytes`. Error: Corrupt.
Result<Safetensors> read_safetensors(std::span<const uint8_t> bytes);

}  // namespace bitlab::format::bit
