// The synthetic twin of MNIST: the same sizes, drawn on demand. Digits of seven segments with random place, size, slant, stroke and
// noise; integer arithmetic and an own generator, so the same on every platform.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "bitlab/data/dataset.h"
#include "bitlab/data/random.h"

namespace bitlab::data {
namespace {

constexpr int kCanvasSide = 28;
constexpr int64_t kTrainCount = 2000, kTestCount = 500;

// Segments a to g as ends on a grid of 2 x 3 points (column, row), and the segments of each digit.
struct Segment {
  int x0, y0, x1, y1;
};
constexpr std::array<Segment, 7> kSegments{Segment{0, 0, 1, 0}, {1, 0, 1, 1}, {1, 1, 1, 2}, {0, 2, 1, 2},
                                           {0, 1, 0, 2},        {0, 0, 0, 1}, {0, 1, 1, 1}};
constexpr std::array<int, 10> kDigits{0x3F, 0x06, 0x5B, 0x4F, 0x66, 0x6D, 0x7D, 0x07, 0x7F, 0x6F};

// How a digit is drawn, in 1/16 pixels.
struct Style {
  int left, top, width, height, slant, stroke;
};

// The squared distance of a point from a segment, in 1/256 pixels squared.
int64_t distance(int64_t px, int64_t py, int64_t ax, int64_t ay, int64_t bx, int64_t by) {
  const int64_t dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  const int64_t along = std::clamp<int64_t>((px - ax) * dx + (py - ay) * dy, 0, length);
  const int64_t nx = ax * length + dx * along - px * length, ny = ay * length + dy * along - py * length;
  return length == 0 ? 0 : (nx / length) * (nx / length) + (ny / length) * (ny / length);
}

void draw(int digit, const Style& s, Random& random, uint8_t* pixels) {
  for (int y = 0; y < kCanvasSide; ++y)
    for (int x = 0; x < kCanvasSide; ++x) {
      int64_t nearest = int64_t{1} << 40;
      for (size_t i = 0; i < kSegments.size(); ++i) {
        if ((kDigits[static_cast<size_t>(digit)] >> i & 1) == 0) continue;
        const Segment& g = kSegments[i];
        const auto at = [&s](int column, int row) {
          return std::pair(s.left + column * s.width - row * s.slant, s.top + row * s.height / 2);
        };
        const auto [ax, ay] = at(g.x0, g.y0);
        const auto [bx, by] = at(g.x1, g.y1);
        nearest = std::min(nearest, distance(16 * x, 16 * y, ax, ay, bx, by));
      }
      const int64_t reach = int64_t{s.stroke} * s.stroke;
      const int ink = nearest < reach ? 255 : nearest < 2 * reach ? 140 : 0;
      *pixels++ = static_cast<uint8_t>(std::clamp(ink + static_cast<int>(random.between(-40, 40)), 0, 255));
    }
}

}  // namespace

Result<DatasetPtr> load_synthetic(Split split, const DataOptions& options) {
  const int64_t all = split == Split::kTrain ? kTrainCount : kTestCount;
  const int64_t count = options.limit > 0 ? std::min(all, options.limit) : all;
  ImageSpec spec{1, kCanvasSide, kCanvasSide, {0.2F}, {0.35F}, {}};
  for (int digit = 0; digit < 10; ++digit) spec.labels.push_back(std::to_string(digit));
  std::vector<uint8_t> pixels(static_cast<size_t>(count * spec.values()));
  std::vector<int64_t> labels;
  Random random(split == Split::kTrain ? 1 : 2);
  const auto next = [&random](int least, int most) { return static_cast<int>(random.between(least, most)); };
  for (int64_t i = 0; i < count; ++i) {
    const int digit = next(0, 9);
    const int width = 16 * next(7, 12), height = 16 * next(14, 20), slant = next(-8, 40);
    const int left = 16 * next(5, 26 - width / 16 - 2) + slant, top = 16 * next(3, 25 - height / 16);
    const Style style{left, top, width, height, slant, next(16, 30)};
    labels.push_back(digit);
    draw(digit, style, random, pixels.data() + i * spec.values());
  }
  return ImageDataset::create(std::move(spec), std::move(pixels), std::move(labels));
}

}  // namespace bitlab::data
