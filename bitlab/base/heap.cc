#include "bitlab/base/internal/heap.h"

#include <limits>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace bitlab {

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kLargestThreshold = 32 << 20;  // glibc takes no higher one; beyond it the system is asked each time
  mallopt(M_MMAP_THRESHOLD, kLargestThreshold);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

}  // namespace bitlab
