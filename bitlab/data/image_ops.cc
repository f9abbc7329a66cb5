#include "bitlab/data/image_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include <fmt/ranges.h>

#include "bitlab/base/internal/half_up.h"

namespace bitlab::data {
namespace {

using Values = std::array<uint8_t, 256>;  // what becomes of each value
using Plane = std::span<uint8_t>;

int64_t area(const Image& image) { return image.height * image.width; }

Plane plane(Image& image, int64_t channel) {
  return Plane(image.pixels).subspan(static_cast<size_t>(channel * area(image)), static_cast<size_t>(area(image)));
}

// --- geometry

// Where in the picture a pixel (x, y) of the result comes from: (a x + b y + c, d x + e y + f) of the middles of pixels.
struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
};

// In units of 2^-16, which the sines of every platform agree on.
int64_t fixed(double value) { return static_cast<int64_t>(value * 65536 + (value >= 0 ? 0.5 : -0.5)); }

void transform(Image& image, const Affine& m) {
  const int64_t a = fixed(m.a), b = fixed(m.b), c = fixed(m.c + m.a * 0.5 + m.b * 0.5);
  const int64_t d = fixed(m.d), e = fixed(m.e), f = fixed(m.f + m.d * 0.5 + m.e * 0.5);
  std::vector<uint8_t> out(image.pixels.size(), 0);
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x) {
      const int64_t from_x = (a * x + b * y + c) >> 16, from_y = (d * x + e * y + f) >> 16;
      if (from_x < 0 || from_y < 0 || from_x >= image.width || from_y >= image.height) continue;
      for (int64_t p = 0; p < static_cast<int64_t>(out.size()); p += area(image))
        out[static_cast<size_t>(p + y * image.width + x)] =
            image.pixels[static_cast<size_t>(p + from_y * image.width + from_x)];
    }
  image.pixels = std::move(out);
}

void apply_identity(Image&, double) {}
void apply_shear_x(Image& image, double v) { transform(image, {.b = v}); }
void apply_shear_y(Image& image, double v) { transform(image, {.d = v}); }
void apply_translate_x(Image& image, double v) { transform(image, {.c = std::trunc(v * static_cast<double>(image.width))}); }
void apply_translate_y(Image& image, double v) {
  transform(image, {.f = std::trunc(v * static_cast<double>(image.height))});
}

void apply_rotate(Image& image, double degrees) {
  const double angle = -degrees * std::numbers::pi / 180;
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const double x = static_cast<double>(image.width) / 2, y = static_cast<double>(image.height) / 2;
  transform(image, {cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y});
}

// --- colours

uint8_t blended(int from, int value, float share) {
  const float sum = static_cast<float>(from) + share * static_cast<float>(value - from);
  return static_cast<uint8_t>(std::clamp(sum, 0.0F, 255.0F));
}

// from + (1 + v) (x - from), with `from` of a channel and a pixel.
template <class From>
void blend(Image& image, double v, From from) {
  const auto share = static_cast<float>(1 + v);
  for (int64_t c = 0; c < image.channels; ++c) {
    const Plane values = plane(image, c);
    for (size_t i = 0; i < values.size(); ++i) values[i] = blended(from(c, i), values[i], share);
  }
}

// ITU-R 601-2 in units of 2^-16.
std::vector<uint8_t> grey(Image& image) {
  const Plane first = plane(image, 0);
  std::vector<uint8_t> out(first.begin(), first.end());
  if (image.channels == 1) return out;
  const Plane green = plane(image, 1), blue = plane(image, 2);
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<uint8_t>((first[i] * 19595 + green[i] * 38470 + blue[i] * 7471 + 0x8000) >> 16);
  return out;
}

void apply_brightness(Image& image, double v) {
  blend(image, v, [](int64_t, size_t) { return 0; });
}

void apply_color(Image& image, double v) {
  blend(image, v, [from = grey(image)](int64_t, size_t i) { return int{from[i]}; });
}

void apply_contrast(Image& image, double v) {
  const std::vector<uint8_t> values = grey(image);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  blend(image, v, [mean = half_up<int>(sum / static_cast<double>(values.size()))](int64_t, size_t) { return mean; });
}

// The mean of 3x3 pixels, of which the middle one counts five times; edges stay.
std::vector<uint8_t> smoothed(Image& image) {
  std::vector<uint8_t> out = image.pixels;
  const int64_t width = image.width;
  for (int64_t c = 0; c < image.channels; ++c)
    for (int64_t y = 1; y + 1 < image.height; ++y)
      for (int64_t x = 1; x + 1 < width; ++x) {
        const int64_t at = c * area(image) + y * width + x;
        int sum = 4 * image.pixels[static_cast<size_t>(at)];
        for (int64_t dy = -1; dy <= 1; ++dy)
          for (int64_t dx = -1; dx <= 1; ++dx) sum += image.pixels[static_cast<size_t>(at + dy * width + dx)];
        out[static_cast<size_t>(at)] = static_cast<uint8_t>((2 * sum + 13) / 26);
      }
  return out;
}

void apply_sharpness(Image& image, double v) {
  const auto size = static_cast<size_t>(area(image));
  blend(image, v,
        [from = smoothed(image), size](int64_t c, size_t i) { return int{from[static_cast<size_t>(c) * size + i]}; });
}

// --- values

template <class Table>
void map_values(Image& image, Table table) {
  for (int64_t c = 0; c < image.channels; ++c) {
    const Plane values = plane(image, c);
    const Values to = table(values);
    for (uint8_t& value : values) value = to[value];
  }
}

// f of each value.
template <class F>
Values table_of(F f) {
  Values to{};
  for (int i = 0; i < 256; ++i) to[static_cast<size_t>(i)] = static_cast<uint8_t>(f(i));
  return to;
}

void apply_posterize(Image& image, double v) {
  const int mask = 256 - (1 << std::clamp(static_cast<int>(std::lround(v)), 0, 7));
  map_values(image, [mask](Plane) { return table_of([mask](int i) { return i & mask; }); });
}

void apply_solarize(Image& image, double v) {
  const double threshold = 255 * (1 - v);
  map_values(image, [&](Plane) { return table_of([&](int i) { return i < threshold ? i : 255 - i; }); });
}

void apply_auto_contrast(Image& image, double) {
  map_values(image, [](Plane values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    if (*high <= *low) return table_of([](int i) { return i; });
    const double scale = 255.0 / (*high - *low), offset = -*low * scale;
    return table_of([&](int i) { return std::clamp(static_cast<int>(i * scale + offset), 0, 255); });
  });
}

void apply_equalize(Image& image, double) {
  map_values(image, [](Plane values) {
    std::array<int64_t, 256> counts{};
    for (const uint8_t value : values) ++counts[value];
    const auto last = std::find_if(counts.rbegin(), counts.rend(), [](int64_t count) { return count > 0; });
    const int64_t step = (static_cast<int64_t>(values.size()) - *last) / 255;
    if (step == 0) return table_of([](int i) { return i; });
    int64_t sum = step / 2;
    return table_of([&](int i) {
      const int64_t value = std::min<int64_t>(sum / step, 255);
      sum += counts[static_cast<size_t>(i)];
      return value;
    });
  });
}

constexpr std::array kImageOps{
#define BITLAB_IMAGE_OP(name, is_signed, least, most) ImageOp{#name, is_signed, least, most, apply_##name},
#include "bitlab/data/image_ops.def"
#undef BITLAB_IMAGE_OP
};

}  // namespace

std::span<const ImageOp> image_ops() { return kImageOps; }

Result<ImageOp> find_image_op(std::string_view name) {
  std::vector<std::string_view> names;
  for (const ImageOp& op : kImageOps) {
    if (op.name == name) return op;
    names.push_back(op.name);
  }
  return make_error(ErrorCode::kUnknownName, "[image] an operation of {{{}}}, got '{}'", fmt::join(names, ", "), name);
}

}  // namespace bitlab::data
