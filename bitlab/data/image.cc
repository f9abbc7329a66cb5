#include "bitlab/data/image.h"

#include <png.h>

#include "bitlab/base/file.h"
#include "bitlab/data/internal/jpeg.h"

namespace bitlab::data {
namespace {

// Deflate makes at most 1032 bytes of one; a file that promises more is refused before memory is taken for it.
constexpr int64_t kMaxExpansion = 1032;

// libpng's simplified interface: errors come as return values.
class Png {
 public:
  Png() { image_.version = PNG_IMAGE_VERSION; }
  ~Png() { png_image_free(&image_); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
  png_image* get() { return &image_; }
  png_image* operator->() { return &image_; }

 private:
  png_image image_{};
};

Status check_channels(int64_t channels) {
  if (channels == 1 || channels == 3) return {};
  return make_error(ErrorCode::kInvalidArgument, "[image] 1 or 3 channels, got {}", channels);
}

uint32_t format_of(int64_t channels) { return channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB; }

Result<Image> decode_png(std::span<const uint8_t> file, int64_t channels) {
  const auto corrupt = [](const char* found) {
    return make_error(ErrorCode::kCorrupt, "[png] a PNG picture, got '{}'", found);
  };
  Png png;
  if (png_image_begin_read_from_memory(png.get(), file.data(), file.size()) == 0) return corrupt(png->message);
  if (png->width > kMaxImageSide || png->height > kMaxImageSide)
    return make_error(ErrorCode::kCorrupt, "[png] at most {} pixels a side, got {}x{}", kMaxImageSide, png->height,
                      png->width);
  if (int64_t{png->width} * png->height > kMaxExpansion * 8 * static_cast<int64_t>(file.size()))  // 8: one bit a pixel
    return corrupt("more pixels than the file can hold");
  png->format = format_of(channels);
  Image image{channels, png->height, png->width, std::vector<uint8_t>(PNG_IMAGE_SIZE(*png.get()))};
  constexpr png_color kBlack{0, 0, 0};
  if (png_image_finish_read(png.get(), &kBlack, image.pixels.data(), 0, nullptr) == 0) return corrupt(png->message);
  image.pixels = transpose(image.pixels, image.height * image.width, channels);
  return image;
}

}  // namespace

std::vector<uint8_t> transpose(const std::vector<uint8_t>& from, int64_t rows, int64_t columns) {
  std::vector<uint8_t> to(from.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[static_cast<size_t>(c * rows + r)] = from[static_cast<size_t>(r * columns + c)];
  return to;
}

Result<Image> decode_image(std::span<const uint8_t> file, int64_t channels) {
  BITLAB_RETURN_IF_ERROR(check_channels(channels));
  return is_jpeg(file) ? decode_jpeg(file, channels) : decode_png(file, channels);
}

Result<Image> read_image(const std::filesystem::path& path, int64_t channels) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Result<Image> image = decode_image(file->bytes(), channels);
  if (!image.ok()) return make_error(image.error().code, "{} (path={})", image.error().message, path.string());
  return image;
}

Status write_png(const std::filesystem::path& path, const Image& image) {
  BITLAB_RETURN_IF_ERROR(check_channels(image.channels));
  const int64_t values = image.channels * image.height * image.width;
  if (image.height < 1 || image.width < 1 || image.height > kMaxImageSide || image.width > kMaxImageSide ||
      static_cast<int64_t>(image.pixels.size()) != values)
    return make_error(ErrorCode::kInvalidArgument, "[png] 1 to {} pixels a side and as many values, got {}x{} and {}",
                      kMaxImageSide, image.height, image.width, image.pixels.size());
  Png png;
  png->width = static_cast<uint32_t>(image.width);
  png->height = static_cast<uint32_t>(image.height);
  png->format = format_of(image.channels);
  const std::vector<uint8_t> pixels = transpose(image.pixels, image.channels, image.height * image.width);
  std::vector<uint8_t> bytes(PNG_IMAGE_PNG_SIZE_MAX(*png.get()));
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(png.get(), bytes.data(), &size, 0, pixels.data(), 0, nullptr) == 0)
    return make_error(ErrorCode::kInternal, "[png] a picture that can be encoded, got '{}'", png->message);
  return write_file_atomic(path, std::span<const uint8_t>(bytes.data(), size));
}

}  // namespace bitlab::data
