// The operations of RandAugment (image_ops.def), on pictures in place.
#pragma once

#include <span>
#include <string_view>

#include "bitlab/data/image.h"

namespace bitlab::data {

struct ImageOp {
  std::string_view name;
  bool is_signed = false;
  double least = 0, most = 0;  // how far it goes at magnitudes 0 and 10
  void (*apply)(Image& image, double amount) = nullptr;
};

std::span<const ImageOp> image_ops();
// Error: UnknownName, listing the names.
Result<ImageOp> find_image_op(std::string_view name);

}  // namespace bitlab::data
