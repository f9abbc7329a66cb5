// Random numbers of stochastic rounding, by index: u(draw, i) is a function of the two alone, so that no order of the weights, number of
// threads or device changes a bit. A layer counts its training steps in the draw (nn/quantizer.h), from a number that its seed gives.
//
//   u(draw, i) = the highest 24 bits of mix(mix(draw) + i g), as a multiple of 2^-24 in [0, 1),  modulo 2^64
//
// g and mix are SplitMix64's increment and output function (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
#pragma once

#include <cstdint>

namespace bitlab::ternary {

inline constexpr uint64_t kDrawIncrement = 0x9E3779B97F4A7C15;
inline constexpr uint64_t kDrawFactors[2] = {0xBF58476D1CE4E5B9, 0x94D049BB133111EB};
inline constexpr int kDrawShifts[3] = {30, 27, 31}, kDrawBits = 24;

constexpr uint64_t mix(uint64_t z) {
  z = (z ^ (z >> kDrawShifts[0])) * kDrawFactors[0];
  z = (z ^ (z >> kDrawShifts[1])) * kDrawFactors[1];
  return z ^ (z >> kDrawShifts[2]);
}

// The key of a draw, from which all of its numbers follow.
constexpr uint64_t draw_key(int64_t draw) { return mix(static_cast<uint64_t>(draw)); }

constexpr float uniform(uint64_t key, uint64_t index) {
  const uint64_t bits = mix(key + index * kDrawIncrement) >> (64 - kDrawBits);
  return static_cast<float>(bits) * (1.0F / (1 << kDrawBits));
}

}  // namespace bitlab::ternary
