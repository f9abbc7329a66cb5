// Where values lie in one block of memory: those whose lifetimes do not meet share bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace bitlab::program {

// When a value is in memory: from the step that writes it to the last one that reads it.
struct Lifetime {
  int64_t first = -1;  // -1 for inputs, which are written before all steps
  int64_t last = -1;   // the number of steps for outputs
};

class Placement {
 public:
  // The lowest offset at which `bytes` overlap no value that lives at the same time. Values come in the order in which they are written. The caller
  // rounds bytes up to what it aligns values to.
  int64_t place(int64_t bytes, const Lifetime& life);
  // Of the block, so far.
  int64_t bytes() const { return bytes_; }

 private:
  struct Placed {
    int64_t begin, end;
    Lifetime life;
  };
  std::vector<Placed> placed_;  // what lived lately, in the order of offsets
  int64_t bytes_ = 0;
};

}  // namespace bitlab::program
