// The container of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian:
//
//   "GGUF", version u32, number of tensors u64, number of metadata u64
//   metadata   key, type u32, value; texts are a length u64 and bytes, arrays a type u32, a number u64 and values
//   tensors    name, number of sizes u32, sizes u64 from the fastest one on, type u32, offset u64 into the data
//   data       at a multiple of general.alignment (32), each tensor at one, too
//
// Knows metadata and bytes, not what types of tensors mean (dialects.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::format::gguf {

// Of values of metadata, in the order of their numbers.
enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64, kTypeCount };

// As it lies in a file: most arrays are large, and few are asked for.
struct Array {
  uint32_t type;  // none of arrays
  uint64_t count;
  std::string bytes;
};
using Metadata = std::variant<int64_t, double, bool, std::string, Array>;

Array array_of(const std::vector<std::string>& texts);
Array array_of(const std::vector<float>& values);
Array array_of(const std::vector<int32_t>& values);
Array array_of_bytes(std::string bytes);
// Of an array that was read. Nothing where it is of another type: texts, any numbers, 8-bit numbers.
std::optional<std::vector<std::string>> texts_of(const Array& array);
std::optional<std::vector<double>> numbers_of(const Array& array);
std::optional<std::string> bytes_of(const Array& array);

struct TensorInfo {
  uint32_t type;
  std::vector<int64_t> shape;      // from the slowest size on, as everywhere else here
  std::span<const uint8_t> bytes;  // up to the next tensor: with the padding
};

struct Contents {
  std::map<std::string, Metadata> metadata;
  std::map<std::string, TensorInfo> tensors;
  uint64_t alignment = 32;
};

// Views into `bytes`. Errors: Corrupt (anything that contradicts the format, tensors that overlap or are beyond the end), UnsupportedVersion.
Result<Contents> read_container(std::span<const uint8_t> bytes);

struct Tensor {
  std::string name;
  uint32_t type;
  std::vector<int64_t> shape;  // from the slowest size on
  std::string bytes;
};
// Version 3. Integers become u32, floats f32.
std::string write_container(const std::vector<std::pair<std::string, Metadata>>& metadata,
                            const std::vector<Tensor>& tensors);

}  // namespace bitlab::format::gguf
