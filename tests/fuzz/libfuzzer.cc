#include "tests/fuzz/fuzz.h"

// libFuzzer's entry. Half of the inputs get right checksums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  if (size % 2 == 0) bitlab::fuzz::repair(bytes);
  bitlab::fuzz::read_bytes(bytes);
  return 0;
}
