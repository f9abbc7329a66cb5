#include "tests/fuzz/fuzz.h"
#include <filesystem>
#include <string_view>

#include "bitlab/base/file.h"

// libFuzzer's start. The seeds go into the folder of the corpus, without which it would have to find out how files begin.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (const std::string_view argument : std::span(*argv, static_cast<size_t>(*argc)).subspan(1)) {
    if (argument.starts_with('-') || !std::filesystem::is_directory(argument)) continue;
    size_t number = 0;
    for (const std::vector<uint8_t>& seed : bitlab::fuzz::seeds())
      bitlab::write_file_atomic(std::filesystem::path(argument) / fmt::format("seed_{}", number++), seed).value();
    break;
  }
  return 0;
}

// Its entry. Half of the inputs get right checksums.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  if (size % 2 == 0) bitlab::fuzz::repair(bytes);
  bitlab::fuzz::read_bytes(bytes);
  return 0;
}
