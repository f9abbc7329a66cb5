#include "bitlab/data/internal/jpeg.h"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <jpeglib.h>
#include <string>

namespace bitlab::data {
namespace {

// A block of 64 values takes a bit at least, and colour has a block and a half for each 64 pixels.
constexpr int64_t kMaxPixelsOfByte = 512;
constexpr int kMaxScans = 500;  // of a progressive file, each of which costs a pass over the picture

// What libjpeg calls where it finds something wrong. It must not return, so it jumps out of the library; nothing with a destructor lives between.
struct JpegErrors {
  jpeg_error_mgr manager;  // first, so that a pointer to it is one to this
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> message;
};

void stop(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->manager.format_message(info, errors->message.data());
  std::longjmp(errors->jump, 1);
}

// Warnings are about damaged data, such as an early end, for which libjpeg would make something up.
void stop_at_warnings(j_common_ptr info, int level) {
  if (level < 0) stop(info);
}

void say_nothing(j_common_ptr) {}

void stop_at_scans(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMaxScans) return;
  std::snprintf(errors->message.data(), errors->message.size(), "more than %d scans", kMaxScans);
  std::longjmp(errors->jump, 1);
}

// The decoder with all that it points to; destroyed with it.
class Jpeg {
 public:
  explicit Jpeg(std::span<const uint8_t> file) : file_(file) {
    info_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = stop;
    errors_.manager.emit_message = stop_at_warnings;
    errors_.manager.output_message = say_nothing;
    progress_.progress_monitor = stop_at_scans;
  }
  ~Jpeg() { jpeg_destroy_decompress(&info_); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;

  bool begin() {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    jpeg_mem_src(&info_, file_.data(), file_.size());
    jpeg_read_header(&info_, TRUE);
    return true;
  }
  // Rows of [height, width, channels].
  bool read(int64_t channels, uint8_t* pixels) {
    if (setjmp(errors_.jump) != 0) return false;
    info_.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    info_.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&info_);
    const size_t stride = size_t{info_.output_width} * static_cast<size_t>(info_.output_components);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = pixels + info_.output_scanline * stride;
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }
  int64_t height() const { return info_.image_height; }
  int64_t width() const { return info_.image_width; }
  const char* message() const { return errors_.message.data(); }

 private:
  std::span<const uint8_t> file_;
  jpeg_decompress_struct info_{};
  jpeg_progress_mgr progress_{};
  JpegErrors errors_{};
};

}  // namespace

bool is_jpeg(std::span<const uint8_t> file) {
  constexpr std::array<uint8_t, 3> kStart{0xFF, 0xD8, 0xFF};
  return file.size() >= kStart.size() && std::equal(kStart.begin(), kStart.end(), file.begin());
}

Result<Image> decode_jpeg(std::span<const uint8_t> file, int64_t channels) {
  const auto corrupt = [](const char* found) {
    return make_error(ErrorCode::kCorrupt, "[jpeg] a JPEG picture, got '{}'", found);
  };
  Jpeg jpeg(file);
  if (!jpeg.begin()) return corrupt(jpeg.message());
  if (jpeg.width() > kMaxImageSide || jpeg.height() > kMaxImageSide)
    return make_error(ErrorCode::kCorrupt, "[jpeg] at most {} pixels a side, got {}x{}", kMaxImageSide, jpeg.height(),
                      jpeg.width());
  if (jpeg.height() * jpeg.width() > kMaxPixelsOfByte * static_cast<int64_t>(file.size()))
    return corrupt("more pixels than the file can hold");
  Image image{channels, jpeg.height(), jpeg.width(),
              std::vector<uint8_t>(static_cast<size_t>(jpeg.height() * jpeg.width() * channels))};
  if (!jpeg.read(channels, image.pixels.data())) return corrupt(jpeg.message());
  image.pixels = transpose(image.pixels, image.height * image.width, channels);
  return image;
}

}  // namespace bitlab::data
