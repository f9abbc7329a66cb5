// SHA-256 (FIPS 180-4), by which downloaded files are told.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "bitlab/base/result.h"

namespace bitlab::data {

class Sha256 {
 public:
  void add(std::span<const uint8_t> bytes);
  // In hexadecimal, of all that was added; nothing may be added behind it.
  std::string finish();

 private:
  void take(const uint8_t* block);
  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  size_t filled_ = 0;
  uint64_t bytes_ = 0;
};

// Errors: NotFound, IoError.
Result<std::string> sha256_of(const std::filesystem::path& path);

}  // namespace bitlab::data
