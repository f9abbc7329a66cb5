// An owning block of bytes aligned to 64, the cache line and the widest vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "bitlab/base/result.h"

namespace bitlab {

inline constexpr size_t kAlignment = 64;

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Zero-filled. Error: OutOfMemory.
  static Result<AlignedBuffer> allocate(size_t bytes);

  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<uint8_t> bytes() { return {data_.get(), size_}; }
  std::span<const uint8_t> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
};

}  // namespace bitlab
