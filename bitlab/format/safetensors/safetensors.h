// Safetensors, the container of .bit files and of Hugging Face's checkpoints (https://github.com/huggingface/safetensors, "Format"):
//
//   8 bytes   length of the header, little-endian
//   header    JSON: {"__metadata__": {key: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}}; may end with spaces
//   data      the tensors, side by side: every byte belongs to exactly one
//
// Knows tensors and text, not programs.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::format::safetensors {

enum class ElementType { kU8, kI8, kBool, kF16, kBF16, kI32, kF32, kI64 };
std::string_view name(ElementType type);  // "U8", as in files
int64_t bytes_of(ElementType type);       // of an element

struct TensorView {
  ElementType type;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

// Writes the tensors in the given order. Data begin at a multiple of `alignment`. A tensor without an address, but a size, is zeros.
std::string write(std::span<const NamedTensor> tensors, const std::map<std::string, std::string>& metadata,
                  size_t alignment);

// The two parts of a file.
struct Parts {
  std::string_view header;
  std::span<const uint8_t> data;
};
// `where`: the format that asks, for messages. Error: Corrupt.
Result<Parts> split(std::span<const uint8_t> bytes, std::string_view where);

struct Contents {
  std::map<std::string, TensorView> tensors;  // views into the data
  std::map<std::string, std::string> metadata;
};
// Error: Corrupt.
Result<Contents> read(const Parts& parts, std::string_view where);

}  // namespace bitlab::format::safetensors
