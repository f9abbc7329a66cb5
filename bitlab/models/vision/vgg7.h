// VGG-7, on which ternary weights were first compared on CIFAR-10: Li et al., Ternary Weight Networks, arXiv:1605.04711, section 4:
// (2 x 128 C3) MP2 (2 x 256 C3) MP2 (2 x 512 C3) MP2 1024 FC, with batch norms.
#pragma once

#include "bitlab/models/model.h"

namespace bitlab::models {

struct Vgg7Config {
  static constexpr std::string_view kName = "vgg7";
  int64_t filters = 128;
  int64_t hidden = 1024;
  int64_t channels = 3;
  int64_t height = 32;
  int64_t width = 32;
  int64_t classes = 10;

  void visit(config::Fields& f) {
    f("filters", filters, "channels of the first two convolutions, twice and four times as many of the others");
    f("hidden", hidden, "width of the hidden layer");
    f("channels", channels, "channels of a picture");
    f("height", height, "height of a picture in pixels, from 8 on");
    f("width", width, "width of a picture in pixels, from 8 on");
    f("classes", classes, "number of classes");
  }
};

}  // namespace bitlab::models
