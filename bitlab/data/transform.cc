#include "bitlab/data/transform.h"

#include <algorithm>

#include "bitlab/data/image_ops.h"

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

Transform cutout(int64_t side) {
  return [side](Sample& sample, Random& random) -> Status {
    BITLAB_TRY(Array * image, picture_of(sample));
    const int64_t height = image->shape[1], width = image->shape[2];
    const int64_t top = random.between(0, height - 1) - side / 2, left = random.between(0, width - 1) - side / 2;
    const int64_t begin = std::max<int64_t>(0, left), end = std::min(width, left + side);
    for (int64_t row = 0; row < image->shape[0] * height; ++row)
      if (const int64_t y = row % height; y >= top && y < top + side && begin < end)
        std::fill(image->bytes.begin() + row * width + begin, image->bytes.begin() + row * width + end, uint8_t{0});
    return {};
  };
}

Transform rand_augment(int64_t operations, double magnitude) {
  return [operations, magnitude](Sample& sample, Random& random) -> Status {
    BITLAB_TRY(Array * array, picture_of(sample));
    if (array->shape[0] != 1 && array->shape[0] != 3)
      return make_error(ErrorCode::kInvalidArgument, "[rand_augment] 1 or 3 channels, got {}", array->shape[0]);
    Image image{array->shape[0], array->shape[1], array->shape[2], std::move(array->bytes)};
    for (int64_t i = 0; i < operations; ++i) {
      const ImageOp& op = image_ops()[static_cast<size_t>(random.between(0, static_cast<int64_t>(image_ops().size()) - 1))];
      const double amount = op.least + (op.most - op.least) * magnitude / 10;
      op.apply(image, op.is_signed && random.between(0, 1) == 1 ? -amount : amount);
    }
    array->bytes = std::move(image.pixels);
    return {};
  };
}

}  // namespace bitlab::data
