#include <algorithm>
#include <cmath>

#include "bitlab/base/internal/half_up.h"
#include "bitlab/data/image.h"
#include "bitlab/data/internal/jpeg.h"

namespace bitlab::data {
namespace {

constexpr int kWeightBits = 22;  // of 32, beside 8 of a value and 2 for sums

// The pixels that make one of the result, and their weights, which add up to 2^22 but for rounding.
struct Window {
  int64_t begin = 0;
  std::vector<int32_t> weights;
};

std::vector<Window> windows(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to), support = std::max(scale, 1.0);
  std::vector<Window> list;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = std::max<int64_t>(0, half_up<int64_t>(center - support));
    const auto end = std::min(from, half_up<int64_t>(center + support));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = begin; j < end; ++j) {
      const double distance = std::abs((static_cast<double>(j) - center + 0.5) / support);
      weights.push_back(std::max(0.0, 1 - distance));
      sum += weights.back();
    }
    Window& window = list.emplace_back(Window{begin, {}});
    for (const double weight : weights) window.weights.push_back(half_up<int32_t>(weight / sum * (1 << kWeightBits)));
  }
  return list;
}

// Along the last of [rows, from] -> [rows, to], or along the one before of [rows, from, columns].
std::vector<uint8_t> resampled(const std::vector<uint8_t>& pixels, int64_t from, int64_t to, int64_t columns) {
  if (from == to) return pixels;
  const auto rows = static_cast<int64_t>(pixels.size()) / (from * columns);
  const std::vector<Window> list = windows(from, to);
  std::vector<uint8_t> out(static_cast<size_t>(rows * to * columns));
  auto next = out.begin();
  for (int64_t r = 0; r < rows; ++r)
    for (const Window& window : list)
      for (int64_t c = 0; c < columns; ++c) {
        int32_t sum = 1 << (kWeightBits - 1);
        auto pixel = pixels.begin() + (r * from + window.begin) * columns + c;
        for (size_t i = 0; i < window.weights.size(); ++i)
          sum += window.weights[i] * pixel[static_cast<int64_t>(i) * columns];
        *next++ = static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
      }
  return out;
}

}  // namespace

Result<Image> resize(const Image& image, int64_t height, int64_t width) {
  if (height < 1 || width < 1 || height > kMaxImageSide || width > kMaxImageSide)
    return make_error(ErrorCode::kInvalidArgument, "[resize] from 1 to {} pixels a side, got {}x{}", kMaxImageSide, height,
                      width);
  Image out{image.channels, height, width, resampled(image.pixels, image.width, width, 1)};
  out.pixels = resampled(out.pixels, image.height, height, width);
  return out;
}

}  // namespace bitlab::data
