// What this machine can do at most, measured at this moment: the roofs of a roofline (Williams, Waterman and Patterson 2009).
#pragma once

#include <string>
#include <vector>

#include "bitlab/profile/cost.h"

namespace bitlab::profile {

struct MemoryRoof {
  std::string level;       // "L1", "L2", "L3", "memory"
  int64_t capacity = 0;    // bytes that fit into it, of all threads together; of the memory without bound
  double bytes_per_s = 0;  // read from it, by all threads together
};

struct Roofs {
  int threads = 1;
  double int8_macs_per_s = 0, float32_macs_per_s = 0;  // by the widest instructions that kernels use
  std::vector<MemoryRoof> memory{};                    // from the smallest level to the memory; the last is never missing

  // Infinite for none.
  double macs_per_s(Arithmetic arithmetic) const;
  // As if all of these bytes were in the smallest level that holds them.
  double bytes_per_s(int64_t bytes) const;
  // The least time that a step can take: the longer of its products' and of moving its bytes.
  double seconds(const StepCost& cost) const;
};

// Runs short loops on every level, for about a fifth of a second. Other programs on the machine lower what it finds. Error: OutOfMemory.
Result<Roofs> measure_roofs(int threads);

}  // namespace bitlab::profile
