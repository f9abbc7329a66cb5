// The windows of convolutions and pools.
#pragma once

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

struct WindowSizes {
  Ints kernel, stride, dilation, before, behind, output_padding;  // one for each size of an image
};
// Of the node, its attributes checked: those of padding, or what auto_pad says. Errors: Corrupt, Unsupported.
Result<WindowSizes> window_sizes(const Reader& r, Ints kernel, bool transposed);
// An image with what the windows say around it.
Result<program::ValueId> padded_image(Reader& r, program::ValueId x, const WindowSizes& window, float value);

}  // namespace bitlab::format::onnx
