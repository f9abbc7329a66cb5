#include "bitlab/program/shape.h"

#include <fmt/core.h>

namespace bitlab::program {

std::string to_string(Dim dim) {
  if (!dim.symbolic) return std::to_string(dim.size);
  return dim.size == 1 ? "batch" : fmt::format("{}*batch", dim.size);
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + to_string(shape[i]);
  return text + "]";
}

std::vector<int64_t> at_batch(const Shape& shape, int64_t batch) {
  std::vector<int64_t> sizes;
  for (const Dim& dim : shape) sizes.push_back(dim.at(batch));
  return sizes;
}

int64_t elements(const Shape& shape, int64_t batch) {
  int64_t count = 1;
  for (const Dim& dim : shape) count *= dim.at(batch);
  return count;
}

bool is_valid(const Shape& shape) {
  int64_t count = 1;
  for (const Dim& dim : shape) {
    if (dim.size < 1 || dim.size > kMaxElements / count) return false;
    count *= dim.size;
  }
  return true;
}

}  // namespace bitlab::program
