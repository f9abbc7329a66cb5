// Random numbers that are the same on every platform: splitmix64 (S. Vigna, public domain algorithm).
#pragma once

#include <cstdint>

namespace bitlab::data {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // The stream of one thing among many, such as a sample in an epoch of a run: streams of different keys have nothing to do with each other.
  Random(uint64_t seed, uint64_t epoch, uint64_t index) : state_(seed) {
    state_ = bits() ^ epoch;
    state_ = bits() ^ index;
    state_ = bits();
  }

  uint64_t bits() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  // Uniform in [least, most].
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(bits() % static_cast<uint64_t>(most - least + 1));
  }

 private:
  uint64_t state_;
};

}  // namespace bitlab::data
