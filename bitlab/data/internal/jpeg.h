// JPEG through libjpeg-turbo, and what both decoders of pictures share.
#pragma once

#include "bitlab/data/image.h"

namespace bitlab::data {

inline constexpr int64_t kMaxImageSide = 16384;

// From [rows, columns] to [columns, rows]: from [height * width, channels] to planes, or back.
std::vector<uint8_t> transpose(const std::vector<uint8_t>& from, int64_t rows, int64_t columns);

bool is_jpeg(std::span<const uint8_t> file);
Result<Image> decode_jpeg(std::span<const uint8_t> file, int64_t channels);

}  // namespace bitlab::data
