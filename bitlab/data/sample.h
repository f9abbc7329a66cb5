// What a data set hands out: named arrays of numbers, without LibTorch. A batch is a sample whose arrays have one more dimension in front.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

enum class DType { kUInt8, kInt64, kFloat32 };
std::string_view name(DType dtype);  // "uint8"
int64_t size_of(DType dtype);        // of one value, in bytes

template <class T>
constexpr DType dtype_of() {
  static_assert(std::is_same_v<T, uint8_t> || std::is_same_v<T, int64_t> || std::is_same_v<T, float>);
  return std::is_same_v<T, uint8_t> ? DType::kUInt8 : std::is_same_v<T, int64_t> ? DType::kInt64 : DType::kFloat32;
}

struct Array {
  std::string name;
  DType dtype = DType::kUInt8;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;  // row-major values

  template <class T>
  static Array of(std::string name, std::vector<int64_t> shape, std::span<const T> values) {
    Array array{std::move(name), dtype_of<T>(), std::move(shape), std::vector<uint8_t>(values.size_bytes())};
    if (!values.empty()) std::memcpy(array.bytes.data(), values.data(), values.size_bytes());
    return array;
  }
  // T must be that of dtype.
  template <class T>
  std::span<T> values() {
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> values() const {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

struct Sample {
  std::vector<Array> arrays;

  // Null where there is none of that name.
  const Array* find(std::string_view name) const;
  Array* find(std::string_view name);
};

// Samples as a batch. Error: ShapeMismatch where they differ in names, dtypes or shapes; InvalidArgument (no samples).
Result<Sample> stack(std::span<const Sample> samples);

}  // namespace bitlab::data
