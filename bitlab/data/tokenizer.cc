#include "bitlab/data/tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>

#include <nlohmann/json.hpp>

#include "bitlab/base/file.h"
#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

// Not base's Json, whose objects search all keys for each that is added: a vocabulary has many.
using Tree = nlohmann::json;

constexpr int64_t kMaxVocabulary = 1 << 24;

Error corrupt_tokenizer(std::string_view expectation) {
  return make_error(ErrorCode::kCorrupt, "[tokenizer] {}, got another form", expectation);
}

Error unsupported_tokenizer(std::string_view what, std::string_view name) {
  return make_error(ErrorCode::kUnsupported, "[tokenizer] a {} that is known here, got '{}'", what, name);
}

// A field of an object; null where there is none.
const Tree& at(const Tree& tree, const char* key) {
  static const Tree null;
  if (!tree.is_object()) return null;
  const auto found = tree.find(key);
  return found == tree.end() ? null : *found;
}

std::string text_at(const Tree& tree, const char* key) {
  const Tree& value = at(tree, key);
  return value.is_string() ? value.get<std::string>() : "";
}

bool flag_at(const Tree& tree, const char* key, bool fallback = false) {
  const Tree& value = at(tree, key);
  return value.is_boolean() ? value.get<bool>() : fallback;
}

std::optional<int64_t> id_of(const Tree& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxVocabulary) return std::nullopt;
  return value.get<int64_t>();
}

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

// The character that stands for each byte in vocabularies of bytes: itself where it is printable, else one from 256 on.
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> list;
  char32_t next = 256;
  for (size_t b = 0; b < list.size(); ++b) {
    const bool is_printable = (b > 32 && b < 127) || (b > 160 && b != 173);
    append_utf8(list[b], is_printable ? static_cast<char32_t>(b) : next++);
  }
  return list;
}

using Step = std::u32string (*)(std::u32string_view);

// What a tokenizer.json describes.
class Described final : public Tokenizer {
 public:
  Status read(const Tree& tree) {
    BITLAB_RETURN_IF_ERROR(read_normalizer(at(tree, "normalizer")));
    BITLAB_RETURN_IF_ERROR(read_splitter(at(tree, "pre_tokenizer")));
    BITLAB_RETURN_IF_ERROR(read_model(at(tree, "model")));
    return read_added(at(tree, "added_tokens"));
  }

  int64_t size() const override { return static_cast<int64_t>(names_.size()); }

  Result<std::vector<int64_t>> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    size_t begin = 0;
    for (size_t i = 0; i < text.size();) {
      const Added* found = added_at(text.substr(i));
      if (found == nullptr) {
        ++i;
        continue;
      }
      BITLAB_RETURN_IF_ERROR(append(ids, text.substr(begin, i - begin)));
      ids.push_back(found->id);
      begin = i += found->text.size();
    }
    BITLAB_RETURN_IF_ERROR(append(ids, text.substr(begin)));
    return ids;
  }

  Result<std::string> decode(std::span<const int64_t> ids) const override {
    std::string text;
    for (const int64_t id : ids) {
      if (id < 0 || id >= size())
        return make_error(ErrorCode::kInvalidArgument, "[tokenizer] ids below {}, got {}", size(), id);
      const std::string& name = names_[static_cast<size_t>(id)];
      const bool is_added = std::any_of(added_.begin(), added_.end(), [id](const Added& a) { return a.id == id; });
      if (is_byte_level_ && !is_added)
        append_bytes(text, name);
      else if (!is_word_piece_)
        text += name;
      else if (!prefix_.empty() && name.starts_with(prefix_))
        text += name.substr(prefix_.size());
      else
        text += (text.empty() ? "" : " ") + name;
    }
    return text;
  }

 private:
  struct Added {
    std::string text;
    int64_t id = 0;
  };

  Status read_normalizer(const Tree& tree) {
    if (tree.is_null()) return {};
    const std::string type = text_at(tree, "type");
    if (type == "Sequence") {
      if (!at(tree, "normalizers").is_array()) return corrupt_tokenizer("a list of normalizers");
      for (const Tree& part : at(tree, "normalizers")) BITLAB_RETURN_IF_ERROR(read_normalizer(part));
    } else if (type == "BertNormalizer") {
      const bool lowers = flag_at(tree, "lowercase", true);
      if (flag_at(tree, "clean_text", true)) steps_.push_back(cleaned_text);
      if (flag_at(tree, "handle_chinese_chars", true)) steps_.push_back(spaced_chinese);
      if (flag_at(tree, "strip_accents", lowers)) steps_.push_back(without_accents);
      if (lowers) steps_.push_back(lower);
    } else if (type == "Lowercase") {
      steps_.push_back(lower);
    } else if (type == "StripAccents" && decomposes_) {
      steps_.push_back(without_accents);
    } else if (type != "NFD") {
      return unsupported_tokenizer("normalizer", type);
    }
    decomposes_ = type == "NFD";
    return {};
  }

  Status read_splitter(const Tree& tree) {
    if (decomposes_) return unsupported_tokenizer("normalizer", "NFD without StripAccents behind it");
    const std::string type = text_at(tree, "type");
    if (type == "ByteLevel" && flag_at(tree, "use_regex", true)) {
      split_ = split_byte_level;
      is_byte_level_ = true;
      has_space_in_front_ = flag_at(tree, "add_prefix_space", true);
    } else if (type == "BertPreTokenizer") {
      split_ = split_bert;
    } else if (type == "WhitespaceSplit") {
      split_ = split_spaces;
    } else {
      return unsupported_tokenizer("pre-tokenizer", tree.is_null() ? "none" : type);
    }
    return {};
  }

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
    if (type.empty()) type = at(tree, "merges").is_array() ? "BPE" : "WordPiece";  // as older files leave it out
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
    if (type == "WordPiece") {
      const auto longest = id_of(at(tree, "max_input_chars_per_word"));
      is_word_piece_ = true;
      prefix_ = text_at(tree, "continuing_subword_prefix");
      if (unknown_id < 0) return corrupt_tokenizer("an unk_token of the vocabulary");
      model_ = make_word_piece(std::move(words), prefix_, longest.value_or(100), unknown_id);
      return {};
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!text_at(tree, key).empty()) return unsupported_tokenizer("BPE", key);
    if (flag_at(tree, "byte_fallback")) return unsupported_tokenizer("BPE", "byte_fallback");
    BITLAB_TRY(const std::vector<Merge> merges, read_merges(at(tree, "merges")));
    BITLAB_TRY(model_, make_bpe(words, merges, {unknown_id, flag_at(tree, "fuse_unk"), flag_at(tree, "ignore_merges")}));
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
    for (const Tree& item : list) {
      const std::string text = text_at(item, "content");
      if (text.empty()) return corrupt_tokenizer("added tokens with a content");
      for (const char* key : {"lstrip", "rstrip", "single_word"})
        if (flag_at(item, key)) return unsupported_tokenizer("added token", fmt::format("{} with {}", text, key));
      if (flag_at(item, "normalized") && !steps_.empty()) return unsupported_tokenizer("added token", text + ", normalized");
      BITLAB_RETURN_IF_ERROR(name(text, at(item, "id")));
      added_.push_back({text, *id_of(at(item, "id"))});
    }
    // Where several begin at one place, the longest counts.
    std::stable_sort(added_.begin(), added_.end(),
                     [](const Added& a, const Added& b) { return a.text.size() > b.text.size(); });
    return {};
  }

  const Added* added_at(std::string_view text) const {
    for (const Added& added : added_)
      if (text.starts_with(added.text)) return &added;
    return nullptr;
  }

  Status append(std::vector<int64_t>& ids, std::string_view text) const {
    if (text.empty()) return {};
    BITLAB_TRY(std::u32string characters, from_utf8(text));
    for (const Step step : steps_) characters = step(characters);
    if (has_space_in_front_ && !characters.starts_with(U' ')) characters.insert(characters.begin(), U' ');
    Status status;
    split_(characters, [&](std::u32string_view word) {
      if (status.ok()) status = model_->append(ids, is_byte_level_ ? spelled(to_utf8(word)) : to_utf8(word));
    });
    return status;
  }

  std::string spelled(std::string_view bytes) const {
    std::string out;
    for (const char b : bytes) out += byte_characters_[static_cast<uint8_t>(b)];
    return out;
  }

  void append_bytes(std::string& text, const std::string& name) const {
    for (size_t begin = 0; begin < name.size();) {
      const size_t end = character_end(name, begin);
      const auto found = std::find(byte_characters_.begin(), byte_characters_.end(), name.substr(begin, end - begin));
      if (found != byte_characters_.end()) text += static_cast<char>(found - byte_characters_.begin());
      begin = end;
    }
  }

  std::vector<Step> steps_;
  bool decomposes_ = false;  // the normalizer before was NFD
  Splitter split_;
  bool is_byte_level_ = false, has_space_in_front_ = false, is_word_piece_ = false;
  std::string prefix_;
  std::unique_ptr<WordModel> model_;
  std::vector<std::string> names_;  // by id
  int64_t room_ = 0;                // ids below it are believed
  std::vector<Added> added_;
  std::array<std::string, 256> byte_characters_ = byte_characters();
};

}  // namespace

TokenizerPtr byte_tokenizer() { return std::make_shared<Bytes>(); }

Result<TokenizerPtr> parse_tokenizer(std::string_view json) {
  const Tree tree = Tree::parse(json, nullptr, false);
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
