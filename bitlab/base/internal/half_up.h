// Rounding as Pillow and PyTorch have it where they resample, whose values ours are.
#pragma once

namespace bitlab {

// Toward 0 below -0.5.
template <class Integer>
Integer half_up(double value) {
  return static_cast<Integer>(value + 0.5);  // NOLINT(bugprone-incorrect-roundings)
}

}  // namespace bitlab
