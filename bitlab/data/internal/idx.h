// The idx format of MNIST: big-endian; two zero bytes, a type byte, the number of dimensions, their sizes, the values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

struct IdxArray {
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
};

// Reads unsigned bytes (type 8) of rank 1 to 4, gzipped or plain. The file is untrusted: no more memory is taken than its header
// promises, at most 1 GiB. Errors: NotFound, IoError, Corrupt, Unsupported (another type).
Result<IdxArray> read_idx(const std::filesystem::path& path);

// The same from the bytes of a file.
Result<IdxArray> parse_idx(std::span<const uint8_t> bytes);

}  // namespace bitlab::data
