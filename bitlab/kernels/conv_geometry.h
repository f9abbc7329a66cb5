// Sizes of a window operation (convolution, pooling) over one, two or three spatial dimensions, and the gathering of its patches.
// Kernel, stride, dilation and groups are at least 1; padding is at least 0 and may exceed the window; sizes of 0 make an empty result.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace bitlab::kernels {

struct ConvGeometry {
  using Sizes = std::array<int64_t, 3>;  // depth, height, width; a dimension that is not there has size and kernel 1

  int64_t batch = 1, channels = 1;  // input, stored [batch, depth, height, width, channels] (channels last)
  Sizes input{1, 1, 1};
  Sizes kernel{1, 1, 1};
  Sizes stride{1, 1, 1};
  Sizes padding{0, 0, 0};
  Sizes dilation{1, 1, 1};
  int64_t groups = 1;             // of channels; group g of the filters reads group g of the channels
  bool transposed = false;        // input and output change places: the gradient of a convolution
  Sizes output_padding{0, 0, 0};  // transposed: added to the output's size

  int64_t out(size_t d) const { return std::max<int64_t>(out(d, input[d]), 0); }
  // The same for an input of `size` along dimension d, as a number or a symbol; below 1 where the window does not fit.
  template <class Size>
  Size out(size_t d, const Size& size) const {
    const int64_t reach = dilation[d] * (kernel[d] - 1) + 1;
    if (transposed) return (size - 1) * stride[d] - 2 * padding[d] + reach + output_padding[d];
    return (size + 2 * padding[d] - reach + stride[d]) / stride[d];
  }
  int64_t positions() const { return out(0) * out(1) * out(2); }     // output pixels a sample
  int64_t pixels() const { return input[0] * input[1] * input[2]; }  // input pixels a sample
  int64_t sample_values() const { return pixels() * channels; }      // input values a sample
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t group_channels() const { return channels / groups; }
  int64_t depth() const { return taps() * group_channels(); }  // K, in the order (kd, kh, kw, c)

  // Where along dimension d tap k of the output position o reads the input; -1 outside, and between the strides of a transposed one.
  int64_t input_at(size_t d, int64_t o, int64_t k) const {
    int64_t i = o * stride[d] - padding[d] + k * dilation[d];
    if (transposed) {
      const int64_t spread = o + padding[d] - k * dilation[d];
      if (spread < 0 || spread % stride[d] != 0) return -1;
      i = spread / stride[d];
    }
    return i >= 0 && i < input[d] ? i : -1;
  }
};

// The coordinates of an output position, and the next one.
struct OutputPosition {
  const ConvGeometry& g;
  int64_t z, y, x;

  OutputPosition(const ConvGeometry& geometry, int64_t position)
      : g(geometry), z(position / (g.out(1) * g.out(2))), y(position / g.out(2) % g.out(1)), x(position % g.out(2)) {}
  void advance(int64_t count = 1) {  // up to the next line's first one
    x += count;
    if (x < g.out(2)) return;
    x = 0;
    if (++y < g.out(1)) return;
    y = 0;
    ++z;
  }
};

// Calls f(line) for every line of taps, in the order (kd, kh); line is that of the input in its sample, -1 outside.
template <class F>
void for_each_tap_line(const OutputPosition& at, const F& f) {
  const ConvGeometry& g = at.g;
  for (int64_t kz = 0; kz < g.kernel[0]; ++kz) {
    const int64_t z = g.input_at(0, at.z, kz);
    for (int64_t ky = 0; ky < g.kernel[1]; ++ky) {
      const int64_t y = g.input_at(1, at.y, ky);
      f(z < 0 || y < 0 ? int64_t{-1} : z * g.input[1] + y);
    }
  }
}
// Calls f(tap, pixel) for every tap, in the order (kd, kh, kw); pixel is the input pixel's number in its sample, -1 outside.
template <class F>
void for_each_tap(const OutputPosition& at, const F& f) {
  const ConvGeometry& g = at.g;
  int64_t tap = 0;
  for_each_tap_line(at, [&](int64_t line) {
    for (int64_t kx = 0; kx < g.kernel[2]; ++kx, ++tap) {
      const int64_t x = g.input_at(2, at.x, kx);
      f(tap, line < 0 || x < 0 ? int64_t{-1} : line * g.input[2] + x);
    }
  });
}

// memcpy for the short runs of a patch, where a call would cost more than the copy.
inline void copy_short(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  if (bytes > 512) {
    std::memcpy(out, in, bytes);
  } else if (bytes >= 32) {  // the last copy may overlap the one before it
    for (size_t i = 0; i + 32 < bytes; i += 32) std::memcpy(out + i, in + i, 32);
    std::memcpy(out + bytes - 32, in + bytes - 32, 32);
  } else if (bytes >= 16) {  // two copies that may overlap
    std::memcpy(out, in, 16);
    std::memcpy(out + bytes - 16, in + bytes - 16, 16);
  } else if (bytes >= 8) {
    uint64_t first, last;
    std::memcpy(&first, in, 8);
    std::memcpy(&last, in + bytes - 8, 8);
    std::memcpy(out, &first, 8);
    std::memcpy(out + bytes - 8, &last, 8);
  } else if (bytes >= 4) {
    uint32_t first, last;
    std::memcpy(&first, in, 4);
    std::memcpy(&last, in + bytes - 4, 4);
    std::memcpy(out, &first, 4);
    std::memcpy(out + bytes - 4, &last, 4);
  } else {
    for (size_t i = 0; i < bytes; ++i) out[i] = in[i];
  }
}

// Patches line by line, for output pixels of one line: where each line of their taps begins for x0 = 0, null where that is outside of the input.
template <class T, size_t kMost>
class PatchLines {
 public:
  PatchLines() = default;
  PatchLines(const ConvGeometry& g, const OutputPosition& at, const T* image) : end_(image + g.sample_values()) {
    for_each_tap_line(at, [&](int64_t line) {
      lines_[count_++] = line < 0 ? nullptr : image + line * g.input[2] * g.channels;
      is_inside_ = is_inside_ && line >= 0;
    });
  }
  static bool fits(const ConvGeometry& g) { return g.kernel[0] * g.kernel[1] <= static_cast<int64_t>(kMost); }

  // Patches of lines of `values` values: the first from `offset` on, each `step` values behind the one before it, into rows of `stride` values, zeros
  // behind them. What lies in a row's place until `end` is written later.
  void copy(int64_t offset, int64_t step, int64_t patches, int64_t values, T* rows, int64_t stride, const T* end) const {
    constexpr int64_t kWide = 16;  // values of a copy that takes what follows the line, too, which the next line replaces
    const int64_t used = static_cast<int64_t>(count_) * values;
    int64_t i = 0;
    if (sizeof(T) == 1 && 0 < values && values < kWide && stride >= kWide && stride < used + kWide && is_inside_) {
      const T* last = *std::max_element(lines_.begin(), lines_.begin() + count_);
      const auto fitting = [](int64_t room, int64_t each) { return room < 0 ? 0 : room / each + 1; };
      const int64_t wide =
          std::min({patches, fitting(end_ - last - offset - kWide, step), fitting(end - rows - used - kWide, stride)});
      for (; i < wide; ++i, offset += step, rows += stride) {
        T* out = rows;
        for (size_t l = 0; l < count_; ++l, out += values) std::memcpy(out, lines_[l] + offset, kWide);
        std::memset(out, 0, kWide);
      }
    }
    for (; i < patches; ++i, offset += step, rows += stride) {
      T* out = rows;
      for (size_t l = 0; l < count_; ++l, out += values) {
        if (lines_[l] == nullptr) {
          std::memset(out, 0, static_cast<size_t>(values) * sizeof(T));
        } else {
          copy_short(out, lines_[l] + offset, static_cast<size_t>(values) * sizeof(T));
        }
      }
      std::fill(out, rows + stride, T{0});
    }
  }

 private:
  std::array<const T*, kMost> lines_;
  size_t count_ = 0;
  const T* end_ = nullptr;  // of the image
  bool is_inside_ = true;   // every line
};

// Copies the patches of the output pixels [begin, end) of one sample, for one group of channels, into rows of `stride` values: the patch in
// the order (kd, kh, kw, c), zeros for what lies outside of the input, zeros from depth() to stride.
template <class T>
void gather_patches(const ConvGeometry& g, int64_t group, const T* sample, int64_t begin, int64_t end, T* rows,
                    int64_t stride) {
  using Lines = PatchLines<T, 64>;
  const int64_t count = g.group_channels();
  const T* first = sample + group * count;
  // The taps of a line lie side by side in the input unless they are spread or leave it.
  const bool in_lines = !g.transposed && g.dilation[2] == 1 && g.groups == 1 && Lines::fits(g);
  const T* rows_end = rows + (end - begin) * stride;
  OutputPosition at(g, begin);
  for (int64_t position = begin; position < end;) {
    const int64_t in_row = std::min(end - position, g.out(2) - at.x);  // the rest of this line of output pixels
    const Lines lines = in_lines ? Lines(g, at, first) : Lines();
    for (int64_t i = 0, taken; i < in_row; i += taken, position += taken, rows += taken * stride, at.advance(taken)) {
      const int64_t x0 = at.x * g.stride[2] - g.padding[2], room = g.input[2] - g.kernel[2] - x0;
      if (in_lines && x0 >= 0 && room >= 0) {
        taken = std::min(in_row - i, room / g.stride[2] + 1);
        lines.copy(x0 * g.channels, g.stride[2] * g.channels, taken, g.kernel[2] * count, rows, stride, rows_end);
        continue;
      }
      taken = 1;
      T* out = rows;
      const auto bytes = static_cast<size_t>(count) * sizeof(T);
      for_each_tap(at, [&](int64_t, int64_t pixel) {
        if (pixel < 0) {
          std::memset(out, 0, bytes);
        } else {
          copy_short(out, first + pixel * g.channels, bytes);
        }
        out += count;
      });
      std::fill(out, rows + stride, T{0});
    }
  }
}

}  // namespace bitlab::kernels
