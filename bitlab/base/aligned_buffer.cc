#include "bitlab/base/aligned_buffer.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace bitlab {

void AlignedBuffer::Free::operator()(uint8_t* p) const { std::free(p); }

Result<AlignedBuffer> AlignedBuffer::allocate(size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  // Large buffers lie on huge pages where the system has them: a stream of weights would otherwise wait for page tables. Only whole pages are
  // asked for, so that no more memory is taken.
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kAlignment;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = nullptr;
  if (rounded < bytes || posix_memalign(&memory, alignment, rounded) != 0) memory = nullptr;
#if defined(MADV_HUGEPAGE)
  if (memory != nullptr && alignment == kHugePage) madvise(memory, rounded / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  if (memory == nullptr) return make_error(ErrorCode::kOutOfMemory, "[memory] {} bytes, got none from the system", bytes);
  std::memset(memory, 0, rounded);
  buffer.data_.reset(static_cast<uint8_t*>(memory));
  buffer.size_ = bytes;
  return buffer;
}

}  // namespace bitlab
