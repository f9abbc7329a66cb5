// The reader of GGUF files.
#include "tests/fuzz/fuzz.h"

#include "bitlab/format/decoder/test_support.h"
#include "bitlab/format/gguf/gguf.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) { return format::gguf::parse(bytes).ok(); }

std::vector<std::vector<uint8_t>> seeds() {
  using namespace format::decoder;
  std::vector<std::vector<uint8_t>> list;
  for (const bool sub_norms : {false, true}) {
    Config config = test::small_config(sub_norms, Activation::kSilu);
    config.layers = 1;
    config.dim = config.hidden = 64;
    const program::Program p =
        test::random_decoder(config, {.tied = sub_norms, .biases = !sub_norms, .table = program::Storage::kFloat16});
    const std::string bytes = format::gguf::serialize(p, "q2_0").value();
    list.emplace_back(bytes.begin(), bytes.end());
  }
  Config config = test::small_encoder(Pooling::kClassifier, Activation::kGelu);
  config.layers = 1;
  config.hidden = 64;
  const std::string bytes = format::gguf::serialize(test::random_decoder(config), "q2_0").value();
  list.emplace_back(bytes.begin(), bytes.end());
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {16, 256 << 10}; }

}  // namespace bitlab::fuzz
