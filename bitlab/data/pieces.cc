#include "bitlab/data/internal/pieces.h"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <utility>

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

// What two neighbours become, and how early.
struct Joined {
  int64_t rank = 0, id = 0;
};

uint64_t pair_key(int64_t left, int64_t right) { return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right); }

// The numbers of the tokens "<0x00>" to "<0xFF>"; -1: none.
std::array<int64_t, 256> byte_tokens(const Vocabulary& vocabulary) {
  std::array<int64_t, 256> list;
  for (size_t b = 0; b < list.size(); ++b) {
    const auto found = vocabulary.find(fmt::format("<0x{:02X}>", b));
    list[b] = found == vocabulary.end() ? -1 : found->second;
  }
  return list;
}

// Appends the bytes' numbers, where each has one.
bool append_byte_tokens(std::vector<int64_t>& ids, std::string_view bytes, const std::array<int64_t, 256>& tokens) {
  const auto number = [&](char b) { return tokens[static_cast<uint8_t>(b)]; };
  if (std::any_of(bytes.begin(), bytes.end(), [&](char b) { return number(b) < 0; })) return false;
  for (const char b : bytes) ids.push_back(number(b));
  return true;
}

class Bpe final : public WordModel {
 public:
  Bpe(Vocabulary vocabulary, BpeOptions options)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)), bytes_(byte_tokens(vocabulary_)) {}

  Status learn(const std::vector<Merge>& merges) {
    merges_.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto& [first, second] = merges[i];
      const auto left = vocabulary_.find(first), right = vocabulary_.find(second);
      const size_t prefix = std::min(options_.prefix.size(), second.size());
      const auto both = vocabulary_.find(first + second.substr(prefix));
      if (left == vocabulary_.end() || right == vocabulary_.end() || both == vocabulary_.end())
        return make_error(ErrorCode::kCorrupt, "[tokenizer] merges of the vocabulary, got '{}' and '{}'", first, second);
      merges_.insert_or_assign(pair_key(left->second, right->second), Joined{static_cast<int64_t>(i), both->second});
    }
    return {};
  }

  Status append(std::vector<int64_t>& ids, std::string_view word) const override {
    if (const auto whole = vocabulary_.find(word); options_.whole_words && whole != vocabulary_.end()) {
      ids.push_back(whole->second);
      return {};
    }
    BITLAB_TRY(std::vector<int64_t> pieces, characters(word));
    join(pieces);
    ids.insert(ids.end(), pieces.begin(), pieces.end());
    return {};
  }

 private:
  Result<std::vector<int64_t>> characters(std::string_view word) const {
    std::vector<int64_t> ids;
    std::string marked;
    bool waits = false;  // an unknown one, for more of them; bytes do not end the wait, as in the reference
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = character_end(word, begin);
      std::string_view character = word.substr(begin, end - begin);
      if ((begin > 0 && !options_.prefix.empty()) || (end == word.size() && !options_.suffix.empty())) {
        marked = begin > 0 ? options_.prefix : "";
        marked += character;
        if (end == word.size()) marked += options_.suffix;
        character = marked;
      }
      begin = end;
      const auto found = vocabulary_.find(character);
      if (found != vocabulary_.end()) {
        if (std::exchange(waits, false)) ids.push_back(options_.unknown);
        ids.push_back(found->second);
      } else if (!options_.falls_back || !append_byte_tokens(ids, character, bytes_)) {
        if (options_.unknown < 0)
          return make_error(ErrorCode::kInvalidArgument, "[tokenizer] characters of the vocabulary, got '{}'", character);
        if (waits && !options_.fuses) ids.push_back(options_.unknown);
        waits = true;
      }
    }
    if (waits) ids.push_back(options_.unknown);
    return ids;
  }

  // A list with links, and the pairs that may be joined in the order in which they are: each join costs a logarithm, so that no word is slow.
  void join(std::vector<int64_t>& ids) const {
    struct Candidate {
      int64_t rank;
      size_t left;
      int64_t id;  // what the two would become
      bool operator>(const Candidate& o) const { return std::pair(rank, left) > std::pair(o.rank, o.left); }
    };
    constexpr int64_t kGone = -1;
    const size_t end = ids.size();
    std::vector<size_t> next(end), previous(end);
    for (size_t i = 0; i < end; ++i) next[i] = i + 1, previous[i] = i == 0 ? end : i - 1;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto joined_at = [&](size_t left) -> const Joined* {
      if (left >= end || next[left] >= end || ids[left] == kGone) return nullptr;
      const auto found = merges_.find(pair_key(ids[left], ids[next[left]]));
      return found == merges_.end() ? nullptr : &found->second;
    };
    const auto offer = [&](size_t left) {
      if (const Joined* joined = joined_at(left)) queue.push({joined->rank, left, joined->id});
    };
    for (size_t i = 0; i < end; ++i) offer(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      // Other pieces may stand there by now. Where they become the same, the reference joins them, too.
      const Joined* joined = joined_at(best.left);
      if (joined == nullptr || joined->id != best.id) continue;
      const size_t left = best.left, right = next[left];
      ids[left] = best.id;
      ids[right] = kGone;
      next[left] = next[right];
      if (next[left] < end) previous[next[left]] = left;
      offer(left);
      offer(previous[left]);
    }
    std::erase(ids, kGone);
  }

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::unordered_map<uint64_t, Joined> merges_;
  std::array<int64_t, 256> bytes_;
};

class WordPiece final : public WordModel {
 public:
  WordPiece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown)
      : vocabulary_(std::move(vocabulary)), prefix_(std::move(prefix)), longest_(longest), unknown_(unknown) {}

  Status append(std::vector<int64_t>& ids, std::string_view word) const override {
    const size_t before = ids.size();
    const auto starts = [&](size_t at) { return at == word.size() || !continues_character(word[at]); };
    int64_t characters = 0;
    for (size_t i = 0; i < word.size(); ++i) characters += starts(i) ? 1 : 0;
    for (size_t begin = 0; begin < word.size();) {
      size_t end = characters > longest_ ? begin : word.size();
      auto found = vocabulary_.end();
      for (; end > begin; --end) {
        if (!starts(end)) continue;
        found = vocabulary_.find((begin == 0 ? "" : prefix_) + std::string(word.substr(begin, end - begin)));
        if (found != vocabulary_.end()) break;
      }
      if (end == begin) {
        ids.resize(before);
        ids.push_back(unknown_);
        return {};
      }
      ids.push_back(found->second);
      begin = end;
    }
    return {};
  }

 private:
  Vocabulary vocabulary_;
  std::string prefix_;
  int64_t longest_, unknown_;
};

class Unigram final : public WordModel {
 public:
  Unigram(const std::vector<Scored>& vocabulary, int64_t unknown, bool falls_back)
      : unknown_(unknown), falls_back_(falls_back), trie_(words_of(vocabulary)) {
    Vocabulary words;
    double lowest = std::numeric_limits<double>::infinity();
    for (const Scored& token : vocabulary) {
      words.insert_or_assign(token.text, static_cast<int64_t>(scores_.size()));
      scores_.push_back(token.score);
      lowest = std::min(lowest, token.score);
    }
    constexpr double kPenalty = 10;  // SentencePiece's, on top of the least likely token
    unknown_score_ = lowest - kPenalty;
    bytes_ = byte_tokens(words);
  }

  Status append(std::vector<int64_t>& ids, std::string_view word) const override {
    constexpr size_t kNone = std::numeric_limits<size_t>::max();
    struct Node {  // the best way to the place at which its last token ends
      int64_t id = 0;
      double score = 0;
      size_t begin = kNone;
    };
    std::vector<Node> nodes(word.size() + 1);
    const auto offer = [&](size_t begin, size_t end, int64_t id, double score) {
      const double sum = nodes[begin].score + score;
      if (nodes[end].begin == kNone || sum > nodes[end].score) nodes[end] = {id, sum, begin};
    };
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = character_end(word, begin);
      bool is_known = false;
      trie_.prefixes(word.substr(begin), [&](size_t length, int64_t id) {
        offer(begin, begin + length, id, scores_[static_cast<size_t>(id)]);
        is_known = is_known || begin + length == end;
      });
      if (!is_known && unknown_ < 0)
        return make_error(ErrorCode::kInvalidArgument, "[tokenizer] characters of the vocabulary, got '{}'",
                          word.substr(begin, end - begin));
      if (!is_known) offer(begin, end, unknown_, unknown_score_);
      begin = end;
    }
    std::vector<Span> path;  // from the end; unknown ones in a row are one
    std::vector<int64_t> tokens;
    for (size_t end = word.size(); end > 0; end = nodes[end].begin) {
      const Node& node = nodes[end];
      if (node.id == unknown_ && !tokens.empty() && tokens.back() == unknown_) {
        path.back().begin = node.begin;
      } else {
        path.push_back({node.begin, end});
        tokens.push_back(node.id);
      }
    }
    for (size_t i = path.size(); i-- > 0;) {
      const std::string_view text = word.substr(path[i].begin, path[i].end - path[i].begin);
      if (tokens[i] != unknown_ || !falls_back_ || !append_byte_tokens(ids, text, bytes_)) ids.push_back(tokens[i]);
    }
    return {};
  }

 private:
  static std::vector<Trie::Word> words_of(const std::vector<Scored>& vocabulary) {
    std::vector<Trie::Word> words;
    for (const Scored& token : vocabulary) words.push_back({token.text, static_cast<int64_t>(words.size())});
    return words;
  }

  int64_t unknown_;
  bool falls_back_;
  Trie trie_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  std::array<int64_t, 256> bytes_;
};

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

enum class Kind { kLetter, kNumber, kSpace, kOther };

Kind kind_of(char32_t c) {
  if (is_letter(c)) return Kind::kLetter;
  if (is_number(c)) return Kind::kNumber;
  return is_space(c) ? Kind::kSpace : Kind::kOther;
}

// The length of a contraction at the start; 0: none.
size_t contraction(std::u32string_view text) {
  for (const std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"})
    if (text.starts_with(ending)) return ending.size();
  return 0;
}

size_t byte_level_word(std::u32string_view text) {
  if (const size_t length = contraction(text); length > 0) return length;
  const size_t start = text[0] == U' ' && text.size() > 1 && kind_of(text[1]) != Kind::kSpace ? 1 : 0;
  const Kind kind = kind_of(text[start]);
  size_t end = start + 1;
  while (end < text.size() && kind_of(text[end]) == kind) ++end;
  if (kind != Kind::kSpace) return end;
  return end < text.size() && end > 1 ? end - 1 : end;  // the last space goes to the word behind it
}

}  // namespace

Trie::Trie(std::vector<Word> words) {
  std::stable_sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.text < b.text; });
  struct Range {
    size_t begin, end, depth;  // the words below a node, which share so many bytes
  };
  std::vector<Range> ranges{{0, words.size(), 0}};
  nodes_.emplace_back();
  for (size_t n = 0; n < nodes_.size(); ++n) {
    auto [begin, end, depth] = ranges[n];
    for (; begin < end && words[begin].text.size() == depth; ++begin) nodes_[n].number = words[begin].number;
    nodes_[n].children = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char byte = words[begin].text[depth];
      const size_t first = begin;
      while (begin < end && words[begin].text[depth] == byte) ++begin;
      nodes_.push_back({-1, 0, 0, static_cast<uint8_t>(byte)});
      ranges.push_back({first, begin, depth + 1});
    }
    nodes_[n].count = static_cast<uint16_t>(nodes_.size() - nodes_[n].children);
  }
}

const Trie::Node* Trie::child(const Node& node, char byte) const {
  const Node* const begin = nodes_.data() + node.children;
  const Node* const end = begin + node.count;
  const auto b = static_cast<uint8_t>(byte);
  const Node* const found = std::lower_bound(begin, end, b, [](const Node& n, uint8_t value) { return n.byte < value; });
  return found != end && found->byte == b ? found : nullptr;
}

bool is_punctuation_mark(char32_t c) {
  return (c > 32 && c < 48) || (c > 57 && c < 65) || (c > 90 && c < 97) || (c > 122 && c < 127) || is_punctuation(c);
}

Result<std::unique_ptr<WordModel>> make_bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options) {
  auto model = std::make_unique<Bpe>(std::move(vocabulary), std::move(options));
  BITLAB_RETURN_IF_ERROR(model->learn(merges));
  return std::unique_ptr<WordModel>(std::move(model));
}

std::unique_ptr<WordModel> make_word_piece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown) {
  return std::make_unique<WordPiece>(std::move(vocabulary), std::move(prefix), longest, unknown);
}

std::unique_ptr<WordModel> make_unigram(const std::vector<Scored>& vocabulary, int64_t unknown, bool falls_back) {
  return std::make_unique<Unigram>(vocabulary, unknown, falls_back);
}

void split_byte_level(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  while (!text.empty()) {
    const size_t length = byte_level_word(text);
    word(text.substr(0, length));
    text.remove_prefix(length);
  }
}

void split_words(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    const bool is_one = is_word(text[begin]);
    for (end = begin + 1; end < text.size() && is_word(text[end]) == is_one && is_space(text[end]) == is_space(text[begin]);)
      ++end;
    if (!is_space(text[begin])) word(text.substr(begin, end - begin));
  }
}

void split_bert(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  const auto stands_alone = [](char32_t c) { return is_space(c) || is_punctuation_mark(c); };
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = begin + 1;
    if (!stands_alone(text[begin]))
      while (end < text.size() && !stands_alone(text[end])) ++end;
    if (!is_space(text[begin])) word(text.substr(begin, end - begin));
  }
}

std::u32string cleaned_text(std::u32string_view text) {
  constexpr char32_t kReplacement = 0xFFFD;
  std::u32string out;
  for (const char32_t c : text) {
    const bool is_break = c == U'\t' || c == U'\n' || c == U'\r';
    if (!is_break && (c == 0 || c == kReplacement || is_control(c))) continue;
    out += is_space(c) ? U' ' : c;
  }
  return out;
}

std::u32string spaced_chinese(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text)
    if (is_chinese(c))
      out += {U' ', c, U' '};
    else
      out += c;
  return out;
}

}  // namespace bitlab::data
