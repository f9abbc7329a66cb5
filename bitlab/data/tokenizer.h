// Text as numbers and back: bytes, and what a `tokenizer.json` of the package `tokenizers` describes, byte-pair encoding (arXiv:1508.07909) and WordPiece
// (arXiv:1810.04805, longest match first).
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t size() const = 0;  // ids are in [0, size())
  // Without the special tokens that models want around a text; those that the text holds are found. From any number of threads at once. Errors: Corrupt (no
  // UTF-8), InvalidArgument (a piece that the vocabulary lacks, where it has no token for such).
  virtual Result<std::vector<int64_t>> encode(std::string_view text) const = 0;
  // What they say, WordPiece with one space between words. Error: InvalidArgument (an id).
  virtual Result<std::string> decode(std::span<const int64_t> ids) const = 0;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

// Each byte is its own number.
TokenizerPtr byte_tokenizer();

// From the content of a tokenizer.json. Models: BPE and WordPiece. Normalizers: BertNormalizer, Lowercase, NFD with StripAccents behind it, and sequences of them.
// Pre-tokenizers: ByteLevel, BertPreTokenizer, WhitespaceSplit. Errors: Corrupt (not JSON, another form, numbers that are not those of a vocabulary of at most 2^24),
// Unsupported (anything else, by name).
Result<TokenizerPtr> parse_tokenizer(std::string_view json);

// "bytes", or the path of a tokenizer.json. Errors: NotFound, IoError, those of parse_tokenizer().
Result<TokenizerPtr> load_tokenizer(const std::string& name);

}  // namespace bitlab::data
