// Text as numbers and back: bytes, and what a `tokenizer.json` of the package `tokenizers` describes, byte-pair encoding (arXiv:1508.07909), WordPiece
// (arXiv:1810.04805, longest match first) and Unigram (arXiv:1804.10959, the most likely pieces).
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
  // UTF-8), InvalidArgument (a piece that the vocabulary lacks, where it has no token for such), Unsupported (a regular expression that takes more than 10^7 steps).
  virtual Result<std::vector<int64_t>> encode(std::string_view text) const = 0;
  // What they say, by the decoder of the file. One without is that of ByteLevel or of WordPiece where the pre-tokenizer or the model is; else a space stands between
  // two tokens. Tokens of bytes may end within a character. Errors: InvalidArgument (an id), those of regular expressions.
  virtual Result<std::string> decode(std::span<const int64_t> ids) const = 0;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

// Each byte is its own number.
TokenizerPtr byte_tokenizer();

// From the content of a tokenizer.json. What is known:
//   models          BPE (byte_fallback, ignore_merges, unk_token, fuse_unk, continuing_subword_prefix, end_of_word_suffix), WordPiece, Unigram (byte_fallback)
//   normalizers     BertNormalizer, ByteLevel, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Strip, StripAccents
//   pre-tokenizers  BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, Metaspace, Punctuation, Split, Whitespace, WhitespaceSplit; none
//   decoders        BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip, WordPiece
//   added tokens    lstrip, rstrip, single_word, normalized
// and sequences of them, at most 8 within each other. Regular expressions are Oniguruma's, but for negated classes within classes, flags other than i, and
// less usual escapes. Post-processors, truncation and padding are left out. Errors: Corrupt (not JSON, another form, numbers that are not those of a vocabulary of at most 2^24),
// Unsupported (anything else, by name).
Result<TokenizerPtr> parse_tokenizer(std::string_view json);

// The files of a folder of transformers that describe a tokenizer, as they are.
struct TokenizerFiles {
  std::string tokenizer{};  // tokenizer.json; empty: none
  std::string config{};     // tokenizer_config.json, which names special tokens; empty: none
};

// "bytes", or the path of a tokenizer.json. Errors: NotFound, IoError, those of parse_tokenizer().
Result<TokenizerPtr> load_tokenizer(const std::string& name);

}  // namespace bitlab::data
