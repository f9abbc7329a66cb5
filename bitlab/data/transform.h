// Random changes of training samples. What comes out is a function of the sample and the random numbers alone.
#pragma once

#include <functional>

#include "bitlab/data/random.h"
#include "bitlab/data/sample.h"

namespace bitlab::data {

using Transform = std::function<Status(Sample& sample, Random& random)>;

// Both change the array "image", uint8 [channels, height, width]. Error: InvalidArgument (no such array, or of another form).

// Moves the picture by up to `margin` pixels in each direction; zeros come in.
Transform random_crop(int64_t margin);
// Mirrors every other picture left to right.
Transform random_flip();

}  // namespace bitlab::data
