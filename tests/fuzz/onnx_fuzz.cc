// The reader of ONNX models.
#include "tests/fuzz/fuzz.h"

#include "bitlab/format/bit/test_support.h"
#include "bitlab/format/onnx/onnx.h"
#include "bitlab/format/onnx/test_support.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) { return format::onnx::parse(bytes).ok(); }

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  const auto add = [&](const program::Program& program, const char* variant) {
    const std::string bytes = format::onnx::serialize(program, variant).value();
    list.emplace_back(bytes.begin(), bytes.end());
  };
  for (const char* variant : {"float", "matmulnbits", "int2", "int8"}) add(format::bit::test::small_program(), variant);
  add(format::bit::test::image_program(), "int2");
  for (const std::string& model : format::onnx::test::models()) list.emplace_back(model.begin(), model.end());
  return list;
}

void repair(std::vector<uint8_t>&) {}

// Nodes of a few bytes become some of the program, constants are folded, up to eight megabytes of them, and loops and recurrent layers
// become as many operations as a program may have.
MemoryBound memory_bound() { return {64, 96 << 20}; }

}  // namespace bitlab::fuzz
