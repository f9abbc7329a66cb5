#include "bitlab/data/transform.h"

#include <algorithm>

namespace bitlab::data {
namespace {

Result<Array*> picture_of(Sample& sample) {
  Array* image = sample.find("image");
  if (image == nullptr) return make_error(ErrorCode::kInvalidArgument, "[data] an array 'image', got none");
  if (image->dtype != DType::kUInt8 || image->shape.size() != 3)
    return make_error(ErrorCode::kInvalidArgument, "[data] 'image' as uint8 of 3 dimensions, got {} of {}",
                      name(image->dtype), image->shape.size());
  return image;
}

// The picture whose pixel (y, x) is that at (y + dy, x + dx), or 0 beyond the edges.
void shift(Array& image, int64_t dy, int64_t dx) {
  const int64_t channels = image.shape[0], height = image.shape[1], width = image.shape[2];
  std::vector<uint8_t> moved(image.bytes.size(), 0);
  for (int64_t row = 0; row < channels * height; ++row) {
    const int64_t from = row % height + dy, begin = std::max<int64_t>(0, -dx), end = std::min(width, width - dx);
    if (from < 0 || from >= height || begin >= end) continue;
    const auto source = image.bytes.begin() + (row + dy) * width + dx;
    std::copy(source + begin, source + end, moved.begin() + row * width + begin);
  }
  image.bytes = std::move(moved);
}

}  // namespace

Transform random_crop(int64_t margin) {
  return [margin](Sample& sample, Random& random) -> Status {
    BITLAB_TRY(Array * image, picture_of(sample));
    const int64_t dy = random.between(-margin, margin), dx = random.between(-margin, margin);
    shift(*image, dy, dx);
    return {};
  };
}

Transform random_flip() {
  return [](Sample& sample, Random& random) -> Status {
    BITLAB_TRY(Array * image, picture_of(sample));
    if (random.between(0, 1) == 0) return {};
    const int64_t width = image->shape[2];
    for (auto row = image->bytes.begin(); row != image->bytes.end(); row += width) std::reverse(row, row + width);
    return {};
  };
}

}  // namespace bitlab::data
