#include "bitlab/program/placement.h"

#include <algorithm>

namespace bitlab::program {

int64_t Placement::place(int64_t bytes, const Lifetime& life) {
  std::erase_if(placed_, [&](const Placed& p) { return p.life.last < life.first; });  // read for the last time
  int64_t offset = 0;
  auto at = placed_.begin();
  for (; at != placed_.end() && offset + bytes > at->begin; ++at) offset = std::max(offset, at->end);
  placed_.insert(at, {offset, offset + bytes, life});
  bytes_ = std::max(bytes_, offset + bytes);
  return offset;
}

}  // namespace bitlab::program
