// A multilayer perceptron on the values of a picture.
#pragma once

#include "bitlab/models/model.h"

namespace bitlab::models {

struct MlpConfig {
  static constexpr std::string_view kName = "mlp";
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t classes = 10;
  std::vector<int64_t> hidden{512, 512};

  void visit(config::Fields& f) {
    f("channels", channels, "channels of a picture");
    f("height", height, "height of a picture in pixels");
    f("width", width, "width of a picture in pixels");
    f("classes", classes, "number of classes");
    f("hidden", hidden, "width of each hidden layer");
  }
};

}  // namespace bitlab::models
