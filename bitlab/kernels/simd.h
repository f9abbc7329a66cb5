// F32x16: the one vector type of float kernels. Sixteen lanes on every target (one, two or four registers), so that a reduction
// has the same order everywhere: lane j sums the elements j, j + 16, …, then the lanes are added as a tree of halves.
// Plain operators only (+ - * / and comparisons): each rounds once.
#pragma once

#include <cstdint>
#include <cstring>

namespace bitlab::kernels {

using F32x16 = float __attribute__((vector_size(64)));

inline constexpr int64_t kLanes = 16;

#define BITLAB_ALWAYS_INLINE inline __attribute__((always_inline))

BITLAB_ALWAYS_INLINE void load(F32x16& lanes, const float* from) { std::memcpy(&lanes, from, sizeof(lanes)); }

// The first `count` lanes from memory, zeros in the others.
BITLAB_ALWAYS_INLINE void load_some(F32x16& lanes, const float* from, int64_t count) {
  float padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
  load(lanes, padded);
}

BITLAB_ALWAYS_INLINE float tree_sum(const F32x16& lanes) {
  float part[kLanes];
  std::memcpy(part, &lanes, sizeof(part));
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

}  // namespace bitlab::kernels
