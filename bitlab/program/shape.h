// Shapes with a symbolic batch size: a dimension is a number, or a multiple of the batch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bitlab::program {

struct Dim {
  int64_t size = 0;       // the number, or the factor of the batch
  bool symbolic = false;  // size * batch

  int64_t at(int64_t batch) const { return symbolic ? size * batch : size; }
  bool operator==(const Dim&) const = default;
};

using Shape = std::vector<Dim>;

inline constexpr Dim kBatch{1, true};
inline constexpr int64_t kMaxRank = 5;
inline constexpr int64_t kMaxElements = int64_t{1} << 40;  // of a value at batch 1; keeps products inside int64

std::string to_string(Dim dim);             // "28", "batch", "2*batch"
std::string to_string(const Shape& shape);  // "[batch, 1, 28, 28]"
std::vector<int64_t> at_batch(const Shape& shape, int64_t batch);
int64_t elements(const Shape& shape, int64_t batch);  // 1 for rank 0
// Whether every size is positive and the number of elements at batch 1 is at most kMaxElements.
bool is_valid(const Shape& shape);

}  // namespace bitlab::program
