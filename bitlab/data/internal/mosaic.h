// A sheet of labelled pictures.
#pragma once

#include <span>
#include <string>

#include "bitlab/data/image.h"

namespace bitlab::data {

struct Tile {
  Image image;          // all of one size; 1 or 3 channels
  std::string caption;  // digits and "-"; other characters leave a space
  bool right = true;    // the caption is green, otherwise red
};

// The tiles, enlarged by `scale`, in rows of `columns`, each with its caption below. Error: InvalidArgument (no tiles, sizes that
// differ).
Result<Image> mosaic(std::span<const Tile> tiles, int64_t columns, int64_t scale = 3);

}  // namespace bitlab::data
