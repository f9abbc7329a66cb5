// The reader of tokenizers in GGUF files, and encoding by what it accepted.
#include "tests/fuzz/fuzz.h"

#include "bitlab/format/gguf/gguf.h"
#include "bitlab/format/gguf/test_support.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) {
  const auto files = format::gguf::parse_tokenizer_files(bytes);
  if (!files.ok() || files->tokenizer.empty()) return files.ok();
  const auto tokenizer = data::parse_tokenizer(files->tokenizer);
  for (const char* text : {"abab a<|end|> b", "  \xC3\x89 \xE2\x96\x81 12\r\n", "\xFF"})
    if (const auto ids = tokenizer.value()->encode(text); ids.ok()) (void)(*tokenizer)->decode(*ids);
  return true;
}

std::vector<std::vector<uint8_t>> seeds() {
  using namespace format::gguf;
  std::vector<std::vector<uint8_t>> list;
  for (const char* model : {"gpt2", "llama", "t5", "bert"}) {
    const std::string bytes = write_container(test::keys_of(model), {});
    list.emplace_back(bytes.begin(), bytes.end());
  }
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {400, 1 << 20}; }  // trees of what is read and of what is made of it

}  // namespace bitlab::fuzz
