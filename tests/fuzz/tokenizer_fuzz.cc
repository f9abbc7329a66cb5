// The reader of tokenizer.json files, and encoding by what it accepted.
#include "tests/fuzz/fuzz.h"

#include "bitlab/base/file.h"
#include "bitlab/data/tokenizer.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) {
  const auto tokenizer = data::parse_tokenizer({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!tokenizer.ok()) return false;
  for (const char* text :
       {"it's a test, 12 times  over", "\xC3\x89l\xC3\xA8ve \xE4\xBB\x8A\xE5\xA4\xA9[CLS]",
        "  e\xCC\x81 \xEF\xAC\x81\xE3\x80\x80\xE2\x91\xA0\r\n\t <mask>  the words 1234\xF0\x9F\x91\xA9", "\xFF"})
    if (const auto ids = (*tokenizer)->encode(text); ids.ok()) (void)(*tokenizer)->decode(*ids);
  return true;
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  for (const char* name : {"bpe.json", "word_piece.json", "words.json", "split.json", "pieces.json", "unigram.json"}) {
    const std::string text = read_file(std::string(BITLAB_SOURCE_DIR "/bitlab/data/testdata/") + name).value();
    list.emplace_back(text.begin(), text.end());
  }
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {400, 1 << 20}; }  // a tree, and a table of pairs

}  // namespace bitlab::fuzz
