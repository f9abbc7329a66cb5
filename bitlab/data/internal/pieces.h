// The models of tokenizers: a word becomes numbers. And how text becomes words.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

using Vocabulary = std::unordered_map<std::string, int64_t>;

// Appends the numbers of a word.
class WordModel {
 public:
  virtual ~WordModel() = default;
  virtual Status append(std::vector<int64_t>& ids, const std::string& word) const = 0;
};

struct Merge {
  std::string left, right;
};
// Begins with characters and joins the pair that comes first in `merges`, the leftmost of equals, until none is left. `unknown`: the number of a character that the
// vocabulary lacks, one for several in a row where `fuses`; -1: an error. `whole_words`: a word of the vocabulary is one token. Error: Corrupt (a merge of or into what
// is not in the vocabulary).
struct BpeOptions {
  int64_t unknown = -1;
  bool fuses = false;
  bool whole_words = false;
};
Result<std::unique_ptr<WordModel>> make_bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges,
                                            const BpeOptions& options);

// From the left, the longest piece that is there; behind the first one with `prefix` in front. A word that does not come out, or has more than `longest` characters, is
// `unknown`.
std::unique_ptr<WordModel> make_word_piece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown);

// The words of a text.
using Splitter = std::function<void(std::u32string_view text, const std::function<void(std::u32string_view)>& word)>;
// GPT-2's: contractions, letters, numbers and other characters, each with a space in front; spaces, of which the last one goes to what follows.
void split_byte_level(std::u32string_view text, const std::function<void(std::u32string_view)>& word);
// Between spaces.
void split_spaces(std::u32string_view text, const std::function<void(std::u32string_view)>& word);
// Between spaces, and each punctuation mark of its own.
void split_bert(std::u32string_view text, const std::function<void(std::u32string_view)>& word);

// What BERT's tokenizer does first: control characters go, spaces become plain ones.
std::u32string cleaned_text(std::u32string_view text);
// Spaces around each Chinese character.
std::u32string spaced_chinese(std::u32string_view text);

}  // namespace bitlab::data
