// What pools need to be known of in integers: windows that have one size.
#pragma once

#include "bitlab/program/program.h"

namespace bitlab::format::c {

struct Average {
  double taps = 0, divisor = 0;  // values of the largest window, and what every sum is divided by
};
// Of avg_pool, adaptive_avg_pool and mean. Error: Unsupported, of windows that are divided by numbers that differ.
Result<Average> average_of(const program::Program& program, const program::Node& node, const program::SymbolSizes& sizes);

// Error: Unsupported, of a max_pool with a window that has no value.
Status check_maxima(const program::Program& program, const program::Node& node, const program::SymbolSizes& sizes);

}  // namespace bitlab::format::c
