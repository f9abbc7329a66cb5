// LeNet-5 in its usual modern form, 20 and 50 filters: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
#pragma once

#include "bitlab/models/model.h"

namespace bitlab::models {

struct LeNet5Config {
  static constexpr std::string_view kName = "lenet5";
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t classes = 10;

  void visit(config::Fields& f) {
    f("channels", channels, "channels of a picture");
    f("height", height, "height of a picture in pixels, from 16 on");
    f("width", width, "width of a picture in pixels, from 16 on");
    f("classes", classes, "number of classes");
  }
};

}  // namespace bitlab::models
