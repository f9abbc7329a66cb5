// The reader of Hugging Face's folders: a line with the length of config.json, config.json, and model.safetensors.
#include "tests/fuzz/fuzz.h"
#include <algorithm>
#include <cstdlib>

#include "bitlab/format/decoder/test_support.h"
#include "bitlab/format/hf/hf.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const size_t line = std::min(text.find('\n'), text.size());
  const size_t begin = std::min(line + 1, text.size());
  const size_t length =
      std::min<size_t>(std::strtoull(std::string(text.substr(0, line)).c_str(), nullptr, 10), text.size() - begin);
  return format::hf::parse(text.substr(begin, length), bytes.subspan(begin + length)).ok();
}

std::vector<std::vector<uint8_t>> seeds() {
  using namespace format::decoder;
  std::vector<std::vector<uint8_t>> list;
  for (const bool sub_norms : {false, true}) {
    Config config = test::small_config(sub_norms, Activation::kSquaredRelu);
    config.layers = 1;
    config.dim = config.hidden = 64;
    const auto files =
        format::hf::serialize(test::random_decoder(config, {.tied = sub_norms, .biases = !sub_norms})).value();
    const std::string bytes = fmt::format("{}\n{}{}", files[0].bytes.size(), files[0].bytes, files[1].bytes);
    list.emplace_back(bytes.begin(), bytes.end());
  }
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {16, 256 << 10}; }

}  // namespace bitlab::fuzz
