// The residual networks for CIFAR: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 4.2. Shortcuts that change
// sizes take every second pixel and add channels of zeros (option A), so they have no parameters.
#pragma once

#include "bitlab/models/model.h"

namespace bitlab::models {

struct ResNetConfig {
  static constexpr std::string_view kName = "resnet";
  int64_t depth = 20;
  int64_t filters = 16;
  int64_t channels = 3;
  int64_t classes = 10;

  void visit(config::Fields& f) {
    f("depth", depth, "layers with weights: 20, 32, 44, 56 in the paper, 6 n + 2 with n blocks a stage");
    f("filters", filters, "channels of the first stage, which the second doubles, and the third again");
    f("channels", channels, "channels of a picture, whose sizes may be any");
    f("classes", classes, "number of classes");
  }
};

}  // namespace bitlab::models
