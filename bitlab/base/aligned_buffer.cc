#include "bitlab/base/aligned_buffer.h"

#include <cstdlib>
#include <cstring>

namespace bitlab {

void AlignedBuffer::Free::operator()(uint8_t* p) const { std::free(p); }

Result<AlignedBuffer> AlignedBuffer::allocate(size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = rounded >= bytes ? std::aligned_alloc(kAlignment, rounded) : nullptr;
  if (memory == nullptr) return make_error(ErrorCode::kOutOfMemory, "[memory] {} bytes, got none from the system", bytes);
  std::memset(memory, 0, rounded);
  buffer.data_.reset(static_cast<uint8_t*>(memory));
  buffer.size_ = bytes;
  return buffer;
}

}  // namespace bitlab
