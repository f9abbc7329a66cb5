// Between the order in which callers pass images, [batch, channels, height, width], and the one in which the runtime stores them,
// [batch, height, width, channels].
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace bitlab::runtime {

// from [batch, rows, columns] to [batch, columns, rows].
inline void transpose_each(int64_t batch, int64_t rows, int64_t columns, const float* from, float* to) {
  if (rows == 1 || columns == 1) {
    std::copy_n(from, batch * rows * columns, to);
    return;
  }
  for (int64_t b = 0; b < batch; ++b, from += rows * columns, to += rows * columns)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

// `shape` is [batch, channels, height, width].
inline void rows_to_channels_last(const std::vector<int64_t>& shape, const float* from, float* to) {
  transpose_each(shape[0], shape[1], shape[2] * shape[3], from, to);
}
inline void channels_last_to_rows(const std::vector<int64_t>& shape, const float* from, float* to) {
  transpose_each(shape[0], shape[2] * shape[3], shape[1], from, to);
}

}  // namespace bitlab::runtime
