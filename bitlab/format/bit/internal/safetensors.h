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

enum class ElementType { kU8, kI8, kBool, kF16, kBF16, kI32, kF32, kI64 };
std::string_view name(ElementType type);  // "U8", as in files

struct TensorView {
  ElementType type;
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
