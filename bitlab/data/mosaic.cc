#include "bitlab/data/internal/mosaic.h"

#include <algorithm>
#include <array>

namespace bitlab::data {
namespace {

// A font of 3 x 5 points: digits, then "-". A row is three bits, the left one highest.
constexpr std::array<std::array<uint8_t, 5>, 11> kFont{{{7, 5, 5, 5, 7},
                                                        {2, 6, 2, 2, 7},
                                                        {7, 1, 7, 4, 7},
                                                        {7, 1, 7, 1, 7},
                                                        {5, 5, 7, 1, 1},
                                                        {7, 4, 7, 1, 7},
                                                        {7, 4, 7, 5, 7},
                                                        {7, 1, 2, 2, 2},
                                                        {7, 5, 7, 5, 7},
                                                        {7, 5, 7, 1, 7},
                                                        {0, 0, 7, 0, 0}}};
constexpr int64_t kPoint = 3, kGap = 6, kCaption = 5 * kPoint + 2 * kGap;
using Colour = std::array<uint8_t, 3>;
constexpr Colour kBackground{24, 26, 32}, kRight{94, 201, 121}, kWrong{240, 98, 88};

class Canvas {
 public:
  Canvas(int64_t height, int64_t width)
      : image_{3, height, width, std::vector<uint8_t>(static_cast<size_t>(3 * height * width))} {
    fill(0, 0, height, width, kBackground);
  }

  void fill(int64_t y, int64_t x, int64_t height, int64_t width, const Colour& colour) {
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t row = y; row < y + height; ++row)
        std::fill_n(image_.pixels.begin() + (c * image_.height + row) * image_.width + x, width,
                    colour[static_cast<size_t>(c)]);
  }

  void picture(int64_t y, int64_t x, const Image& from, int64_t scale) {
    const int64_t plane = from.height * from.width;
    for (int64_t i = 0; i < plane; ++i) {
      const auto at = [&](int64_t c) {
        return from.pixels[static_cast<size_t>(std::min(c, from.channels - 1) * plane + i)];
      };
      fill(y + i / from.width * scale, x + i % from.width * scale, scale, scale, {at(0), at(1), at(2)});
    }
  }

  void text(int64_t y, int64_t x, const std::string& text, const Colour& colour) {
    for (char character : text) {
      const int glyph = character == '-' ? 10 : character >= '0' && character <= '9' ? character - '0' : -1;
      for (int64_t row = 0; glyph >= 0 && row < 5; ++row)
        for (int64_t column = 0; column < 3; ++column)
          if (kFont[static_cast<size_t>(glyph)][static_cast<size_t>(row)] >> (2 - column) & 1)
            fill(y + row * kPoint, x + column * kPoint, kPoint, kPoint, colour);
      x += 4 * kPoint;
    }
  }

  Image take() { return std::move(image_); }

 private:
  Image image_;
};

int64_t text_width(const std::string& text) { return static_cast<int64_t>(text.size()) * 4 * kPoint - kPoint; }

}  // namespace

Result<Image> mosaic(std::span<const Tile> tiles, int64_t columns, int64_t scale) {
  if (tiles.empty() || columns < 1 || scale < 1)
    return make_error(ErrorCode::kInvalidArgument, "[mosaic] tiles, columns and a scale of at least 1, got {}, {} and {}",
                      tiles.size(), columns, scale);
  const Image& first = tiles[0].image;
  for (const Tile& tile : tiles)
    if (tile.image.height != first.height || tile.image.width != first.width)
      return make_error(ErrorCode::kInvalidArgument, "[mosaic] pictures of {}x{}, got {}x{}", first.height, first.width,
                        tile.image.height, tile.image.width);
  const auto count = static_cast<int64_t>(tiles.size());
  const int64_t cell_h = first.height * scale + kCaption, cell_w = first.width * scale + kGap;
  Canvas canvas((count + columns - 1) / columns * cell_h + kGap, std::min(columns, count) * cell_w + kGap);
  for (int64_t i = 0; i < count; ++i) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const int64_t y = i / columns * cell_h + kGap, x = i % columns * cell_w + kGap;
    canvas.picture(y, x, tile.image, scale);
    const int64_t margin = std::max<int64_t>(0, (first.width * scale - text_width(tile.caption)) / 2);
    const auto fitting = static_cast<size_t>(std::max<int64_t>(0, (first.width * scale + kPoint) / (4 * kPoint)));
    canvas.text(y + first.height * scale + kGap, x + margin, tile.caption.substr(0, fitting), tile.right ? kRight : kWrong);
  }
  return canvas.take();
}

}  // namespace bitlab::data
