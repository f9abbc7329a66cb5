// Pictures as bytes, PNG and JPEG files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
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

// Decodes PNG and JPEG files, told by their first bytes, of at most 16,384 pixels a side to 8 bits and 1 or 3 channels. PNG: colours become grey by
// luminance (libpng's weights), grey is repeated, 16 bits are rounded, transparency lies on black. JPEG: by the accurate integer transform, which has the same
// bits with and without vectors; grey is the luminance that the file has. Errors: NotFound, IoError, Corrupt (a truncated file, too), InvalidArgument.
Result<Image> read_image(const std::filesystem::path& path, int64_t channels);
Result<Image> decode_image(std::span<const uint8_t> file, int64_t channels);

// Another size by the triangle filter, which is widened where pixels become fewer (bilinear with antialiasing): first along rows, then along columns, each
// rounded to 8 bits, with weights of 22 bits. Error: InvalidArgument (sizes outside of 1 to 16,384).
Result<Image> resize(const Image& image, int64_t height, int64_t width);

// Writes atomically; 1 or 3 channels. Errors: InvalidArgument, IoError.
Status write_png(const std::filesystem::path& path, const Image& image);

}  // namespace bitlab::data
