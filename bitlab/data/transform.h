// Random changes of training samples. What comes out is a function of the sample and the random numbers alone.
#pragma once

#include <functional>

#include "bitlab/data/random.h"
#include "bitlab/data/sample.h"

namespace bitlab::data {

using Transform = std::function<Status(Sample& sample, Random& random)>;

// All change the array "image", uint8 [channels, height, width]. Error: InvalidArgument (no such array, or of another form).

// Moves the picture by up to `margin` pixels in each direction; zeros come in: a crop of the padded picture.
Transform random_crop(int64_t margin);
// Mirrors every other picture left to right.
Transform random_flip();
// A square of zeros of this side around a random pixel, cut off at the edges: arXiv:1708.04552.
Transform cutout(int64_t side);
// So many operations of image_ops.def in a row, each drawn at random with a random sign, of this magnitude in [0, 10]: RandAugment, arXiv:1909.13719, with
// the list and the scale of torchvision's. Pictures of 1 or 3 channels.
Transform rand_augment(int64_t operations, double magnitude);

}  // namespace bitlab::data
