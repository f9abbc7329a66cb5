// Pictures as bytes, and PNG files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

// Planar: pixels[(c * height + y) * width + x], 0 to 255. One channel is grey, three are red, green, blue.
struct Image {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;
};

// Decodes any PNG of at most 16,384 pixels a side to 8 bits and 1 or 3 channels: colours become grey by luminance (libpng's
// weights), grey is repeated, 16 bits are rounded, transparency lies on black. Errors: NotFound, IoError, Corrupt, InvalidArgument.
Result<Image> read_png(const std::filesystem::path& path, int64_t channels);

// Writes atomically; 1 or 3 channels. Errors: InvalidArgument, IoError.
Status write_png(const std::filesystem::path& path, const Image& image);

}  // namespace bitlab::data
