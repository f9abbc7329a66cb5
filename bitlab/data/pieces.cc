#include "bitlab/data/internal/pieces.h"

#include <algorithm>
#include <map>
#include <queue>

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

// What two neighbours become, and how early.
struct Joined {
  int64_t rank = 0, id = 0;
};

class Bpe final : public WordModel {
 public:
  Bpe(const Vocabulary& vocabulary, const BpeOptions& options) : vocabulary_(vocabulary), options_(options) {}

  Status learn(const std::vector<Merge>& merges) {
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto left = vocabulary_.find(merges[i].left), right = vocabulary_.find(merges[i].right);
      const auto both = vocabulary_.find(merges[i].left + merges[i].right);
      if (left == vocabulary_.end() || right == vocabulary_.end() || both == vocabulary_.end())
        return make_error(ErrorCode::kCorrupt, "[tokenizer] merges of the vocabulary, got '{}' and '{}'", merges[i].left,
                          merges[i].right);
      merges_.emplace(std::pair(left->second, right->second), Joined{static_cast<int64_t>(i), both->second});
    }
    return {};
  }

  Status append(std::vector<int64_t>& ids, const std::string& word) const override {
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
  Result<std::vector<int64_t>> characters(const std::string& word) const {
    std::vector<int64_t> ids;
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = character_end(word, begin);
      const std::string character = word.substr(begin, end - begin);
      const auto found = vocabulary_.find(character);
      if (found == vocabulary_.end() && options_.unknown < 0)
        return make_error(ErrorCode::kInvalidArgument, "[tokenizer] characters of the vocabulary, got '{}'", character);
      const int64_t id = found == vocabulary_.end() ? options_.unknown : found->second;
      const bool repeats = found == vocabulary_.end() && options_.fuses && !ids.empty() && ids.back() == id;
      if (!repeats) ids.push_back(id);
      begin = end;
    }
    return ids;
  }

  // A list with links, and the pairs that may be joined in the order in which they are: each join costs a logarithm, so that no word is slow.
  void join(std::vector<int64_t>& ids) const {
    struct Candidate {
      int64_t rank;
      size_t left;
      int64_t first, second;  // what was there
      bool operator>(const Candidate& o) const { return std::pair(rank, left) > std::pair(o.rank, o.left); }
    };
    constexpr int64_t kGone = -1;
    const size_t end = ids.size();
    std::vector<size_t> next(end), previous(end);
    for (size_t i = 0; i < end; ++i) next[i] = i + 1, previous[i] = i == 0 ? end : i - 1;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto offer = [&](size_t left) {
      if (left >= end || next[left] >= end) return;
      const auto found = merges_.find({ids[left], ids[next[left]]});
      if (found != merges_.end()) queue.push({found->second.rank, left, ids[left], ids[next[left]]});
    };
    for (size_t i = 0; i < end; ++i) offer(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      const size_t left = best.left, right = next[left];
      if (right >= end || ids[left] != best.first || ids[right] != best.second) continue;
      ids[left] = merges_.at({best.first, best.second}).id;
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
  std::map<std::pair<int64_t, int64_t>, Joined> merges_;
};

class WordPiece final : public WordModel {
 public:
  WordPiece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown)
      : vocabulary_(std::move(vocabulary)), prefix_(std::move(prefix)), longest_(longest), unknown_(unknown) {}

  Status append(std::vector<int64_t>& ids, const std::string& word) const override {
    const size_t before = ids.size();
    const auto starts = [&](size_t at) { return at == word.size() || !continues_character(word[at]); };
    int64_t characters = 0;
    for (size_t i = 0; i < word.size(); ++i) characters += starts(i) ? 1 : 0;
    for (size_t begin = 0; begin < word.size();) {
      size_t end = characters > longest_ ? begin : word.size();
      auto found = vocabulary_.end();
      for (; end > begin; --end) {
        if (!starts(end)) continue;
        found = vocabulary_.find((begin == 0 ? "" : prefix_) + word.substr(begin, end - begin));
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

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_bert_punctuation(char32_t c) {
  return (c > 32 && c < 48) || (c > 57 && c < 65) || (c > 90 && c < 97) || (c > 122 && c < 127) || is_punctuation(c);
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

Result<std::unique_ptr<WordModel>> make_bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges,
                                            const BpeOptions& options) {
  auto model = std::make_unique<Bpe>(vocabulary, options);
  BITLAB_RETURN_IF_ERROR(model->learn(merges));
  return std::unique_ptr<WordModel>(std::move(model));
}

std::unique_ptr<WordModel> make_word_piece(Vocabulary vocabulary, std::string prefix, int64_t longest, int64_t unknown) {
  return std::make_unique<WordPiece>(std::move(vocabulary), std::move(prefix), longest, unknown);
}

void split_byte_level(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  while (!text.empty()) {
    const size_t length = byte_level_word(text);
    word(text.substr(0, length));
    text.remove_prefix(length);
  }
}

void split_spaces(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    while (begin < text.size() && is_space(text[begin])) ++begin;
    for (end = begin; end < text.size() && !is_space(text[end]);) ++end;
    if (end > begin) word(text.substr(begin, end - begin));
  }
}

void split_bert(std::u32string_view text, const std::function<void(std::u32string_view)>& word) {
  split_spaces(text, [&](std::u32string_view part) {
    for (size_t begin = 0, end = 0; begin < part.size(); begin = end) {
      end = begin + 1;
      if (!is_bert_punctuation(part[begin]))
        while (end < part.size() && !is_bert_punctuation(part[end])) ++end;
      word(part.substr(begin, end - begin));
    }
  });
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
