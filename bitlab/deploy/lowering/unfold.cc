// Windows of images, taken and put back: torch.nn.Unfold and Fold.
#include <algorithm>
#include <array>

#include <ATen/ops/tensor.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// The windows of an image of fixed size, which lie one after the other.
struct Windows {
  Sizes kernel, dilation, padding, stride;
  int64_t height, width;  // with the padding

  Windows(const Call& call, int64_t image_height, int64_t image_width)
      : kernel(call.argument("kernel_size").toIntVector()),
        dilation(call.argument("dilation").toIntVector()),
        padding(call.argument("padding").toIntVector()),
        stride(call.argument("stride").toIntVector()),
        height(image_height + 2 * padding[0]),
        width(image_width + 2 * padding[1]) {}

  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t out(int64_t size, size_t d) const { return (size - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1; }
  // The pixel of the padded image that each tap of each window reads: [taps, windows].
  std::vector<int64_t> pixels() const {
    std::vector<int64_t> list;
    for (int64_t tap = 0; tap < taps(); ++tap)
      for (int64_t y = 0; y < out(height, 0); ++y)
        for (int64_t x = 0; x < out(width, 1); ++x)
          list.push_back((y * stride[0] + tap / kernel[1] * dilation[0]) * width + x * stride[1] +
                         tap % kernel[1] * dilation[1]);
    return list;
  }
};

Result<ValueId> taken(Lowering& lowering, const Call& call, ValueId x, const std::vector<int64_t>& places) {
  const at::Tensor indices = at::tensor(places, at::kLong);
  BITLAB_TRY(const ValueId list, lowering.constant_of(call, [&](const Call&) { return indices; }));
  return lowering.node(Op::take, {x, list}, {{"dim", int64_t{2}}});
}

// Of images whose sizes differ from run to run: tap by tap, a pixel of each window.
Status symbolic_im2col(Lowering& lowering, const Call& call, ValueId x) {
  const auto numbers = [&](const char* argument) { return call.argument(argument).toIntVector(); };
  const Sizes kernel = numbers("kernel_size"), stride = numbers("stride"), padding = numbers("padding"),
              dilation = numbers("dilation");
  BITLAB_TRY(x, zeros_around(lowering, call, x, {padding[1], padding[1], padding[0], padding[0]}));
  std::array<program::Dim, 2> counts;
  for (size_t axis = 0; axis < 2; ++axis) {
    const program::Dim size = lowering.shape(x)[axis + 2];
    const auto count = quotient(size, stride[axis] - dilation[axis] * (kernel[axis] - 1) - 1, stride[axis]);
    if (!count) return unsupported(call, "windows whose number can be written", lowering.show(lowering.shape(x)));
    counts[axis] = *count;
  }
  const auto tap_of = [&](ValueId of, size_t axis, int64_t tap) {
    return lowering.node(Op::slice, {of},
                         {{"dim", static_cast<int64_t>(axis + 2)},
                          {"start", tap * dilation[axis]},
                          {"length", program::Shape{counts[axis]}},
                          {"step", stride[axis]}});
  };
  std::vector<ValueId> taps;
  for (int64_t row = 0; row < kernel[0]; ++row) {
    BITLAB_TRY(const ValueId rows, tap_of(x, 0, row));
    for (int64_t column = 0; column < kernel[1]; ++column) {
      BITLAB_TRY(const ValueId pixels, tap_of(rows, 1, column));
      const program::Shape shape = lowering.shape(pixels);
      BITLAB_TRY(taps.emplace_back(), lowering.reshape(pixels, {shape[0], shape[1], 1, shape[2] * shape[3]}));
    }
  }
  BITLAB_TRY(x, taps.size() == 1 ? Result<ValueId>(taps[0]) : lowering.node(Op::cat, taps, {{"dim", int64_t{2}}}));
  const program::Shape shape = lowering.shape(x);
  BITLAB_TRY(x, lowering.reshape(x, {shape[0], shape[1] * shape[2], shape[3]}));
  return lowering.finish(call, x);
}

}  // namespace

// [n, c, h, w] to [n, c taps, windows]: torch.nn.Unfold.
Status lower_im2col(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const program::Shape image, image_of(lowering, call));
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  if (!image[2].is_number() || !image[3].is_number()) return symbolic_im2col(lowering, call, x);
  const Windows windows(call, image[2].factor, image[3].factor);
  const int64_t above = windows.padding[0], left = windows.padding[1];
  BITLAB_TRY(x, zeros_around(lowering, call, x, {left, left, above, above}));
  BITLAB_TRY(x, lowering.reshape(x, {image[0], image[1], windows.height * windows.width}));
  BITLAB_TRY(x, taken(lowering, call, x, windows.pixels()));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

// Its transpose, [n, c taps, windows] to [n, c, h, w], torch.nn.Fold: the values that a pixel gets are put side by side, with zeros where others get
// more, and added.
Status lower_col2im(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const program::Shape columns = lowering.shape(x);
  const Sizes size = call.argument("output_size").toIntVector();
  if (columns.size() != 3 || !columns[1].is_number() || !columns[2].is_number() ||
      size != lowering.twin().argument("output_size").toIntVector())
    return unsupported(call, "a batch of windows of images of fixed size", lowering.show(columns));
  const Windows windows(call, size[0], size[1]);
  const std::vector<int64_t> pixels = windows.pixels();
  const auto values = static_cast<int64_t>(pixels.size());
  std::vector<std::vector<int64_t>> of_pixel(static_cast<size_t>(windows.height * windows.width));
  size_t most = 1;
  for (int64_t i = 0; i < values; ++i) {
    auto& list = of_pixel[static_cast<size_t>(pixels[static_cast<size_t>(i)])];
    list.push_back(i);
    most = std::max(most, list.size());
  }
  std::vector<int64_t> places;
  for (int64_t y = 0; y < size[0]; ++y)
    for (int64_t column = 0; column < size[1]; ++column) {
      const auto pixel = (y + windows.padding[0]) * windows.width + column + windows.padding[1];
      const auto& list = of_pixel[static_cast<size_t>(pixel)];
      places.insert(places.end(), list.begin(), list.end());
      places.insert(places.end(), most - list.size(), values);  // the zero behind all values
    }
  const program::Dim channels = columns[1].factor / windows.taps();
  BITLAB_TRY(x, lowering.reshape(x, {columns[0], channels, values}));
  BITLAB_TRY(x, zeros_around(lowering, call, x, {0, 1}));
  BITLAB_TRY(x, taken(lowering, call, x, places));
  BITLAB_TRY(x, lowering.reshape(x, {columns[0], channels, size[0] * size[1], static_cast<int64_t>(most)}));
  BITLAB_TRY(x, lowering.node(Op::sum, {x}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

}  // namespace bitlab::deploy
