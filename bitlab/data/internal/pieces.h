// The models of tokenizers: a word becomes numbers. And how text becomes words.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/data/internal/regex.h"

namespace bitlab::data {

struct TextHash : std::hash<std::string_view> {
  using is_transparent = void;
};
using Vocabulary = std::unordered_map<std::string, int64_t, TextHash, std::equal_to<>>;

// Words with numbers from 0 on, found where a text begins with them. Of equal words the last one counts; an empty one is never found.
class Trie {
 public:
  struct Word {
    std::string_view text;
    int64_t number;
  };
  Trie() : Trie(std::vector<Word>()) {}
  explicit Trie(std::vector<Word> words);
  // Calls found(length, number) for each word that `text` begins with, the shortest first.
  template <class F>
  void prefixes(std::string_view text, const F& found) const {
    const Node* node = nodes_.data();
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(*node, text[i]);
      if (node == nullptr) return;
      if (node->number >= 0) found(i + 1, node->number);
    }
  }

 private:
  struct Node {
    int64_t number = -1;    // of the word that ends here
    uint32_t children = 0;  // the first of them, which lie in the order of their bytes
    uint16_t count = 0;
    uint8_t byte = 0;
  };
  const Node* child(const Node& node, char byte) const;
  std::vector<Node> nodes_;
};

// Appends the numbers of a word.
class WordModel {
 public:
  virtual ~WordModel() = default;
  virtual Status append(std::vector<int64_t>& ids, std::string_view word) const = 0;
};

struct Merge {
  std::string left, right;
};
// Begins with characters and joins the pair that comes first in `merges`, the leftmost of equals, until none is left. Error: Corrupt (a merge of or into what is not in
// the vocabulary).
struct BpeOptions {
  int64_t unknown = -1;      // the number of a character that the vocabulary lacks; -1: an error
  bool fuses = false;        // one for several of them in a row
  bool falls_back = false;   // instead the tokens of its bytes, "<0x00>" to "<0xFF>", where they are there
  bool whole_words = false;  // a word of the vocabulary is one token
  std::string prefix;        // stands in front of each character but the first
  std::string suffix;        // stands behind the last one
};
Result<std::unique_ptr<WordModel>> make_bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options);

// From the left, the longest piece that is there; behind the first one with `prefix` in front. A word that does not come out, or has more than `longest` characters, is
// `unknown`.
std::unique_ptr<WordModel> make_word_piece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown);

// The tokens whose scores, logarithms of probabilities, have the largest sum (arXiv:1804.10959). A token's number is its place. `unknown`, `falls_back`: as BPE's;
// several unknown characters in a row are one.
struct Scored {
  std::string text;
  double score = 0;
};
std::unique_ptr<WordModel> make_unigram(const std::vector<Scored>& vocabulary, int64_t unknown, bool falls_back);

// The words of a text.
using Splitter = std::function<void(std::u32string_view text, const std::function<void(std::u32string_view)>& word)>;
// GPT-2's: contractions, letters, numbers and other characters, each with a space in front; spaces, of which the last one goes to what follows.
void split_byte_level(std::u32string_view text, const std::function<void(std::u32string_view)>& word);
// Words, and what is neither word nor space.
void split_words(std::u32string_view text, const std::function<void(std::u32string_view)>& word);
// Punctuation, and whatever of ASCII is neither letter, number nor control character.
bool is_punctuation_mark(char32_t c);
// Between spaces, and each punctuation mark of its own.
void split_bert(std::u32string_view text, const std::function<void(std::u32string_view)>& word);

// What BERT's tokenizer does first: control characters go, spaces become plain ones.
std::u32string cleaned_text(std::u32string_view text);
// Spaces around each Chinese character.
std::u32string spaced_chinese(std::u32string_view text);

}  // namespace bitlab::data
