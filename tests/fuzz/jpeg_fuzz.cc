// The JPEG reader.
#include "tests/fuzz/fuzz.h"

#include "bitlab/base/file.h"
#include "bitlab/data/internal/jpeg.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) {
  return data::decode_jpeg(bytes, 1).ok() && data::decode_jpeg(bytes, 3).ok();
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  for (const char* name : {"colours.jpg", "grey.jpg"}) {
    const std::string text = read_file(std::string(BITLAB_SOURCE_DIR "/bitlab/data/testdata/") + name).value();
    list.emplace_back(text.begin(), text.end());
  }
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {6 * 512, 64 << 10}; }  // the most pixels of a byte, in three channels, twice

}  // namespace bitlab::fuzz
