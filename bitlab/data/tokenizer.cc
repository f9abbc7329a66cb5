#include "bitlab/data/tokenizer.h"

#include <algorithm>
#include <utility>

#include "bitlab/base/file.h"
#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/steps.h"
#include "bitlab/data/internal/tokenizer_json.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

class Bytes final : public Tokenizer {
 public:
  int64_t size() const override { return 256; }
  Result<std::vector<int64_t>> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  Result<std::string> decode(std::span<const int64_t> ids) const override {
    std::string text;
    for (const int64_t id : ids) {
      if (id < 0 || id > 255) return make_error(ErrorCode::kInvalidArgument, "[tokenizer] ids below 256, got {}", id);
      text += static_cast<char>(id);
    }
    return text;
  }
};

// What of text is part of a word, for added tokens that are words of their own.
bool ends_within_word(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0 && continues_character(text[begin - 1])) --begin;
  if (begin == 0) return false;
  --begin;
  return is_word(next_character(text, begin));
}

bool begins_within_word(std::string_view text) {
  size_t begin = 0;
  return !text.empty() && is_word(next_character(text, begin));
}

size_t spaces_at_end(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && continues_character(text[begin])) --begin;
    size_t at = begin;
    if (!is_space(next_character(text, at))) break;
    end = begin;
  }
  return text.size() - end;
}

size_t spaces_at_start(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size(); end = at)
    if (!is_space(next_character(text, at))) break;
  return end;
}

// What a tokenizer.json describes.
class Described final : public Tokenizer {
 public:
  Status read(const Tree& tree) {
    BITLAB_TRY(normalizers_, read_normalizers(at(tree, "normalizer")));
    BITLAB_TRY(cutters_, read_cutters(at(tree, "pre_tokenizer")));
    BITLAB_RETURN_IF_ERROR(read_model(at(tree, "model")));
    BITLAB_RETURN_IF_ERROR(read_added(at(tree, "added_tokens")));
    BITLAB_TRY(decoders_, read_decoders(at(tree, "decoder")));
    if (!at(tree, "decoder").is_null()) return {};
    // Without a decoder, what the pre-tokenizer or the model asks for, if only one can be meant.
    const bool is_word_piece = !prefix_.empty(), is_byte_level = text_at(at(tree, "pre_tokenizer"), "type") == "ByteLevel";
    if (is_byte_level) {
      BITLAB_TRY(decoders_, read_decoders({{"type", "ByteLevel"}}));
    } else if (is_word_piece) {
      BITLAB_TRY(decoders_, read_decoders({{"type", "WordPiece"}, {"prefix", prefix_}, {"cleanup", false}}));
    } else {
      separator_ = " ";
    }
    return {};
  }

  int64_t size() const override { return static_cast<int64_t>(names_.size()); }

  Result<std::vector<int64_t>> encode(std::string_view text) const override {
    if (const auto valid = from_utf8(text); !valid.ok()) return valid.error();
    std::vector<int64_t> ids;
    BITLAB_RETURN_IF_ERROR(as_written_.cut(text, true, ids, [&](std::string_view part, bool is_first) -> Status {
      std::string normal(part);
      for (const Normalizer& step : normalizers_) {
        BITLAB_TRY(normal, step(std::move(normal)));
      }
      return normalized_.cut(normal, is_first, ids,
                             [&](std::string_view words, bool begins) { return append(ids, words, begins); });
    }));
    return ids;
  }

  Result<std::string> decode(std::span<const int64_t> ids) const override {
    std::vector<std::string> tokens;
    for (const int64_t id : ids) {
      if (id < 0 || id >= size())
        return make_error(ErrorCode::kInvalidArgument, "[tokenizer] ids below {}, got {}", size(), id);
      tokens.push_back(names_[static_cast<size_t>(id)]);
    }
    for (const Decoder& step : decoders_) BITLAB_RETURN_IF_ERROR(step(tokens));
    std::string text;
    for (size_t i = 0; i < tokens.size(); ++i) text += (i == 0 ? "" : separator_) + tokens[i];
    return text;
  }

 private:
  struct Added {
    std::string text;
    int64_t id = 0;
    bool takes_left = false, takes_right = false, is_word = false;  // lstrip, rstrip, single_word
  };

  // Tokens that are found in a text before anything else.
  class AddedTokens {
   public:
    void set(std::vector<Added> list) {
      list_ = std::move(list);
      std::vector<Trie::Word> words;
      // Of equal ones the first counts.
      for (size_t i = list_.size(); i-- > 0;) words.push_back({list_[i].text, static_cast<int64_t>(i)});
      trie_ = Trie(std::move(words));
    }

    // Appends their ids, and calls between(part, whether it is the first of `text`, and this one is_first) for what stands between them. Where several begin at one
    // place, the longest counts.
    template <class F>
    Status cut(std::string_view text, bool is_first, std::vector<int64_t>& ids, const F& between) const {
      size_t done = 0;
      const auto put = [&](size_t end) -> Status {
        return done < end ? between(text.substr(done, end - done), is_first && done == 0) : Status();
      };
      for (size_t i = 0; i < text.size();) {
        const Added* found = nullptr;
        trie_.prefixes(text.substr(i), [&](size_t, int64_t number) { found = &list_[static_cast<size_t>(number)]; });
        if (found == nullptr) {
          ++i;
          continue;
        }
        size_t begin = i, end = i + found->text.size();
        i = end;
        if (found->is_word && (ends_within_word(text.substr(0, begin)) || begins_within_word(text.substr(end)))) continue;
        // Up to `done` there are spaces that a token in front has taken; they are not counted again and again.
        if (found->takes_left && begin > done) begin -= spaces_at_end(text.substr(done, begin - done));
        if (found->takes_right) end = std::max(end, done), end += spaces_at_start(text.substr(end));
        BITLAB_RETURN_IF_ERROR(put(begin));
        ids.push_back(found->id);
        done = end;
      }
      return put(text.size());
    }

   private:
    std::vector<Added> list_;
    Trie trie_;
  };

  Status name(const std::string& text, const Tree& number) {
    const auto id = id_of(number);
    if (!id || *id >= room_) return corrupt_tokenizer("ids below 2^24 without large gaps");
    if (names_.size() <= static_cast<size_t>(*id)) names_.resize(static_cast<size_t>(*id) + 1);
    names_[static_cast<size_t>(*id)] = text;
    return {};
  }

  Status read_model(const Tree& tree) {
    const Tree& vocabulary = at(tree, "vocab");
    std::string type = text_at(tree, "type");
    // Older files leave it out.
    if (type.empty()) type = at(tree, "merges").is_array() ? "BPE" : vocabulary.is_array() ? "Unigram" : "WordPiece";
    if (type == "Unigram") return read_unigram(tree);
    if (type != "BPE" && type != "WordPiece") return unsupported_tokenizer("model", type);
    if (!vocabulary.is_object() || vocabulary.empty()) return corrupt_tokenizer("a vocabulary");
    room_ = 2 * static_cast<int64_t>(vocabulary.size()) + 1024;
    Vocabulary words;
    for (const auto& [text, id] : vocabulary.items()) {
      BITLAB_RETURN_IF_ERROR(name(text, id));
      words.emplace(text, *id_of(id));
    }
    const auto unknown = words.find(text_at(tree, "unk_token"));
    const int64_t unknown_id = unknown == words.end() ? -1 : unknown->second;
    const std::string prefix = text_at(tree, "continuing_subword_prefix");
    if (type == "WordPiece") {
      const auto longest = id_of(at(tree, "max_input_chars_per_word"));
      prefix_ = prefix;
      if (unknown_id < 0) return corrupt_tokenizer("an unk_token of the vocabulary");
      model_ = make_word_piece(std::move(words), prefix, longest.value_or(100), unknown_id);
      return {};
    }
    if (at(tree, "dropout").is_number() && at(tree, "dropout").get<double>() != 0)
      return unsupported_tokenizer("BPE", "dropout");
    BITLAB_TRY(const std::vector<Merge> merges, read_merges(at(tree, "merges")));
    BITLAB_TRY(model_, make_bpe(std::move(words), merges,
                                {unknown_id, flag_at(tree, "fuse_unk"), flag_at(tree, "byte_fallback"),
                                 flag_at(tree, "ignore_merges"), prefix, text_at(tree, "end_of_word_suffix")}));
    return {};
  }

  // [[text, score], ...]
  Status read_unigram(const Tree& tree) {
    const Tree& list = at(tree, "vocab");
    if (!list.is_array() || list.empty()) return corrupt_tokenizer("a vocabulary");
    room_ = static_cast<int64_t>(list.size()) + 1024;
    std::vector<Scored> vocabulary;
    for (const Tree& item : list) {
      if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number())
        return corrupt_tokenizer("a vocabulary of texts and scores");
      BITLAB_RETURN_IF_ERROR(name(item[0].get<std::string>(), Tree(static_cast<uint64_t>(vocabulary.size()))));
      vocabulary.push_back({item[0].get<std::string>(), item[1].get<double>()});
    }
    const Tree& unknown = at(tree, "unk_id");
    const auto id = id_of(unknown);
    if (!unknown.is_null() && (!id || *id >= size())) return corrupt_tokenizer("an unk_id of the vocabulary");
    model_ = make_unigram(vocabulary, id.value_or(-1), flag_at(tree, "byte_fallback"));
    return {};
  }

  // "a b", or ["a", "b"].
  static Result<std::vector<Merge>> read_merges(const Tree& list) {
    std::vector<Merge> merges;
    if (!list.is_array()) return corrupt_tokenizer("a list of merges");
    for (const Tree& item : list) {
      if (item.is_string()) {
        const auto text = item.get<std::string>();
        const size_t space = text.find(' ');
        if (space == std::string::npos) return corrupt_tokenizer("merges of two");
        merges.push_back({text.substr(0, space), text.substr(space + 1)});
      } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
        merges.push_back({item[0].get<std::string>(), item[1].get<std::string>()});
      } else {
        return corrupt_tokenizer("merges of two");
      }
    }
    return merges;
  }

  Status read_added(const Tree& list) {
    if (list.is_null()) return {};
    if (!list.is_array()) return corrupt_tokenizer("a list of added tokens");
    room_ += 2 * static_cast<int64_t>(list.size());
    std::vector<Added> as_written, normalized;
    for (const Tree& item : list) {
      std::string text = text_at(item, "content");
      if (text.empty()) return corrupt_tokenizer("added tokens with a content");
      const bool is_normalized = flag_at(item, "normalized") && !normalizers_.empty();
      if (is_normalized) {
        for (const Normalizer& step : normalizers_) {
          BITLAB_TRY(text, step(std::move(text)));
        }
      }
      BITLAB_RETURN_IF_ERROR(name(text, at(item, "id")));
      (is_normalized ? normalized : as_written)
          .push_back({text, *id_of(at(item, "id")), flag_at(item, "lstrip"), flag_at(item, "rstrip"),
                      flag_at(item, "single_word")});
    }
    as_written_.set(std::move(as_written));
    normalized_.set(std::move(normalized));
    return {};
  }

  Status append(std::vector<int64_t>& ids, std::string_view text, bool is_first) const {
    std::vector<Piece> pieces{{std::string(text), is_first}};
    for (const Cutter& step : cutters_) BITLAB_RETURN_IF_ERROR(step(pieces));
    for (const Piece& piece : pieces) BITLAB_RETURN_IF_ERROR(model_->append(ids, piece.text));
    return {};
  }

  std::vector<Normalizer> normalizers_;
  std::vector<Cutter> cutters_;
  std::vector<Decoder> decoders_;
  std::string separator_;  // between tokens that no decoder joins
  std::string prefix_;     // WordPiece's
  std::unique_ptr<WordModel> model_;
  std::vector<std::string> names_;  // by id
  int64_t room_ = 0;                // ids below it are believed
  AddedTokens as_written_, normalized_;
};

}  // namespace

TokenizerPtr byte_tokenizer() { return std::make_shared<Bytes>(); }

Result<TokenizerPtr> parse_tokenizer(std::string_view json) { return read_tokenizer(Tree::parse(json, nullptr, false)); }

Result<TokenizerPtr> read_tokenizer(const Tree& tree) {
  if (!tree.is_object()) return corrupt_tokenizer("a JSON object");
  const auto tokenizer = std::make_shared<Described>();
  BITLAB_RETURN_IF_ERROR(tokenizer->read(tree));
  return TokenizerPtr(tokenizer);
}

Result<TokenizerPtr> load_tokenizer(const std::string& name) {
  if (name == "bytes") return byte_tokenizer();
  BITLAB_TRY(const std::string text, read_file(name));
  Result<TokenizerPtr> tokenizer = parse_tokenizer(text);
  if (!tokenizer.ok()) return make_error(tokenizer.error().code, "{} (path={})", tokenizer.error().message, name);
  return tokenizer;
}

}  // namespace bitlab::data
