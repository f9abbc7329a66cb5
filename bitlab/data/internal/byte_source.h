// The bytes of a file that may be gzipped, one piece at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <zlib.h>

namespace bitlab::data {

// Whether the bytes begin as gzip does.
bool is_gzip(std::span<const uint8_t> bytes);

class ByteSource {
 public:
  explicit ByteSource(std::span<const uint8_t> file);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills `out` as far as there are bytes; returns how many.
  size_t read(std::span<uint8_t> out);
  // The next bytes, at most so many. Memory grows with what is really there.
  std::vector<uint8_t> read_up_to(size_t count);
  // Whether nothing is left, and gzip's own checksum and length were there and right.
  bool complete();

 private:
  std::span<const uint8_t> rest_;
  z_stream stream_{};
  bool gzipped_ = false;
  bool ended_ = false;
  bool valid_ = true;
};

}  // namespace bitlab::data
