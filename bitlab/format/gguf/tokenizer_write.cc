// A tokenizer.json as the keys of a GGUF file.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/steps.h"
#include "bitlab/data/internal/unicode.h"
#include "bitlab/format/gguf/gguf.h"
#include "bitlab/format/gguf/internal/tokenizer.h"

namespace bitlab::format::gguf {
namespace {

template <class... Args>
Error no_tokenizer(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kUnsupported, "[gguf] {} ({})", fmt::vformat(format, fmt::make_format_args(args...)),
                    kLeftOut);
}

std::string excerpt(const data::Tree& tree) {
  constexpr size_t kMost = 80;
  const std::string text = tree.dump();
  size_t end = std::min(kMost, text.size());
  while (end < text.size() && data::continues_character(text[end])) --end;
  return end == text.size() ? text : text.substr(0, end) + "…";
}

bool is_byte_token(std::string_view text) { return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>'); }

class TokenizerWriter {
 public:
  TokenizerWriter(const data::Tree& tree, const data::Tree& config)
      : tree_(tree), config_(config), model_(data::at(tree, "model")) {}

  Result<Pairs> write(int64_t size, int64_t vocabulary) {
    if (size > vocabulary)
      return make_error(ErrorCode::kInvalidArgument, "[gguf] a tokenizer of at most the model's {} tokens, got {}",
                        vocabulary, size);
    texts_.resize(static_cast<size_t>(vocabulary));
    types_.assign(texts_.size(), kUnused);
    BITLAB_RETURN_IF_ERROR(name_tokens());
    if (is_unigram()) {
      BITLAB_RETURN_IF_ERROR(write_unigram());
    } else if (!data::at(model_, "merges").is_array()) {
      BITLAB_RETURN_IF_ERROR(write_word_piece());
    } else {
      for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (const std::string text = data::text_at(model_, key); !text.empty())
          return no_tokenizer("byte-pair encoding with no {}, got '{}'", key, text);
      const data::Tree parts = canonical(data::at(tree_, "pre_tokenizer"), "pretokenizers");
      const bool is_on_bytes = std::any_of(parts.begin(), parts.end(),
                                           [](const data::Tree& part) { return part.is_array() && part[0] == "ByteLevel"; });
      BITLAB_RETURN_IF_ERROR(is_on_bytes ? write_bpe_on_bytes(parts) : write_sentence_piece(parts));
    }
    BITLAB_RETURN_IF_ERROR(write_tokens());
    BITLAB_RETURN_IF_ERROR(write_specials());
    return std::move(pairs_);
  }

 private:
  bool is_unigram() const { return data::at(model_, "vocab").is_array(); }
  void put(std::string_view key, Metadata value) {
    pairs_.emplace_back(std::string(kTokenizerPrefix) + std::string(key), std::move(value));
  }

  // Texts and types. parse_tokenizer() has seen that numbers are in the vocabulary.
  Status name_tokens() {
    const data::Tree& vocabulary = data::at(model_, "vocab");
    if (is_unigram()) {
      for (const data::Tree& item : vocabulary)
        words_.emplace(item[0].get<std::string>(), static_cast<int64_t>(words_.size()));
      for (size_t id = 0; id < vocabulary.size(); ++id) texts_[id] = vocabulary[id][0].get<std::string>();
    } else {
      for (const auto& [text, id] : vocabulary.items()) {
        std::string& known = texts_[static_cast<size_t>(*data::id_of(id))];
        if (!known.empty()) return no_tokenizer("numbers of one token each, got one of '{}' and '{}'", known, text);
        words_.emplace(text, *data::id_of(id));
        known = text;
      }
    }
    const bool has_bytes = data::flag_at(model_, "byte_fallback");
    for (size_t id = 0; id < texts_.size(); ++id)
      if (!texts_[id].empty()) types_[id] = has_bytes && is_byte_token(texts_[id]) ? kByte : kNormal;
    for (const data::Tree& token : data::at(tree_, "added_tokens")) {
      const auto id = static_cast<size_t>(*data::id_of(data::at(token, "id")));
      const bool is_special = data::flag_at(token, "special");
      texts_[id] = data::text_at(token, "content");
      types_[id] = is_special ? kControl : kUserDefined;
      if (data::flag_at(token, "single_word") ||
          (!is_special && (data::flag_at(token, "lstrip") || data::flag_at(token, "rstrip"))))
        return no_tokenizer("an added token without lstrip, rstrip and single_word, got '{}'", texts_[id]);
      if (!is_special && data::flag_at(token, "normalized") && !is_normalizer_nfc())
        return no_tokenizer("an added token that is not normalized, got '{}'", texts_[id]);
    }
    return {};
  }

  // Or none.
  bool is_normalizer_nfc() const {
    const data::Tree steps = canonical(data::at(tree_, "normalizer"), "normalizers");
    return std::all_of(steps.begin(), steps.end(),
                       [](const data::Tree& step) { return data::text_at(step, "type") == "NFC"; });
  }

  // --- gpt2

  Status write_bpe_on_bytes(const data::Tree& parts) {
    for (const data::Tree& part : canonical(data::at(tree_, "normalizer"), "normalizers"))
      if (data::text_at(part, "type") != "NFC")
        return no_tokenizer("byte-pair encoding on bytes as written, got {}", excerpt(part));
    for (int b = 0; b < 256; ++b)
      if (const char byte = static_cast<char>(b);
          (data::flag_at(model_, "byte_fallback") || !data::text_at(model_, "unk_token").empty()) &&
          !words_.contains(data::spelled_bytes({&byte, 1})))
        return no_tokenizer("tokens of all 256 bytes beside an unk_token, got none of {}", b);
    std::vector<data::Merge> merges;
    std::vector<std::string> list;
    for (const auto& [left, right] : merges_of()) {
      list.push_back(fmt::format("{} {}", left, right));
      merges.push_back({left, right});
    }
    BITLAB_TRY(const PreTokenizer* const found, pre_tokenizer_of(parts, merges));
    put("model", std::string("gpt2"));
    put("pre", std::string(found->names.substr(0, found->names.find(' '))));
    put("merges", array_of(list));
    return {};
  }

  Result<const PreTokenizer*> pre_tokenizer_of(const data::Tree& parts, const std::vector<data::Merge>& merges) const {
    const bool whole_words = data::flag_at(model_, "ignore_merges");
    const PreTokenizer* other = nullptr;
    for (const PreTokenizer& known : pre_tokenizers()) {
      if (canonical(known.tree, "pretokenizers") != parts) continue;
      if (known.whole_words == whole_words) return &known;
      other = &known;
    }
    if (other == nullptr)
      return no_tokenizer("a pre-tokenizer that llama.cpp has, got {}", excerpt(data::at(tree_, "pre_tokenizer")));
    // Whole words make a difference only where merges do not make them.
    BITLAB_TRY(const auto model, data::make_bpe(words_, merges, {}));
    for (size_t id = 0; id < texts_.size(); ++id) {
      std::vector<int64_t> ids;
      if (types_[id] != kNormal) continue;
      if (!model->append(ids, texts_[id]).ok() || ids != std::vector<int64_t>{static_cast<int64_t>(id)})
        return no_tokenizer("ignore_merges {} with this pre-tokenizer, since merges do not make '{}'", other->whole_words,
                            texts_[id]);
    }
    return other;
  }

  std::vector<std::pair<std::string, std::string>> merges_of() const {
    std::vector<std::pair<std::string, std::string>> merges;
    for (const data::Tree& item : data::at(model_, "merges")) {
      if (item.is_string()) {
        const auto text = item.get<std::string>();
        const size_t space = text.find(' ');
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else {
        merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
      }
    }
    return merges;
  }

  // --- llama

  Status write_sentence_piece(const data::Tree& parts) {
    BITLAB_TRY(const bool adds_space, is_space_added(parts));
    if (data::flag_at(model_, "ignore_merges"))
      return no_tokenizer("SentencePiece's byte-pair encoding without ignore_merges, got it");
    for (int b = 0; b < 256; ++b)
      if (!words_.contains(fmt::format("<0x{:02X}>", b)) || !data::flag_at(model_, "byte_fallback"))
        return no_tokenizer("a fallback to tokens of all 256 bytes, got none of {}", b);
    BITLAB_TRY(const auto order, order_of_joins());
    scores_.assign(texts_.size(), 0);
    auto next = static_cast<float>(order.size());
    for (size_t id = 0; id < texts_.size(); ++id) {
      const auto joined = order.find(static_cast<int64_t>(id));
      if (types_[id] == kNormal) scores_[id] = joined != order.end() ? -static_cast<float>(joined->second) : -next++;
    }
    name_unknown(data::text_at(model_, "unk_token"));
    put("model", std::string("llama"));
    put("pre", std::string("default"));
    put("add_space_prefix", adds_space);
    return {};
  }

  // Spaces become U+2581; whether one stands in front.
  Result<bool> is_space_added(const data::Tree& parts) const {
    const data::Tree steps = canonical(data::at(tree_, "normalizer"), "normalizers");
    const data::Tree mark = std::string(kSpaceMark);
    bool replaces = false, adds = false;
    for (const data::Tree& step : steps) {
      const std::string type = data::text_at(step, "type");
      if (type == "Prepend" && data::at(step, "prepend") == mark && !replaces && !adds) {
        adds = true;
      } else if (type == "Replace" && data::at(data::at(step, "pattern"), "String") == " " &&
                 data::at(step, "content") == mark && !replaces) {
        replaces = true;
      } else {
        return no_tokenizer("spaces that become U+2581 and no other normalizer, got {}", excerpt(step));
      }
    }
    for (const data::Tree& part : parts) {
      if (part.is_array() && part[0] == "Split" && part[1] == data::Tree({{"String", " "}}) && replaces)
        continue;  // finds none
      if (data::text_at(part, "type") != "Metaspace" || replaces || adds)
        return no_tokenizer("Metaspace, got {}", excerpt(part));
      BITLAB_TRY(adds, space_of_metaspace(part));
      replaces = true;
    }
    if (!replaces) return no_tokenizer("spaces that become U+2581, got none");
    return adds;
  }

  Result<bool> space_of_metaspace(const data::Tree& part) const {
    if (data::text_at(part, "replacement") != kSpaceMark)
      return no_tokenizer("spaces that become U+2581, got '{}'", data::text_at(part, "replacement"));
    if (data::flag_at(part, "split", true))
      for (size_t id = 0; id < texts_.size(); ++id)
        if (types_[id] == kNormal && texts_[id].rfind(kSpaceMark) + 1 > 1)
          return no_tokenizer("pieces with U+2581 only in front beside a Metaspace that splits, got '{}'", texts_[id]);
    BITLAB_TRY(const data::Scheme scheme, data::metaspace_scheme(part));
    return scheme != data::Scheme::kNever;
  }

  // The tokens that merges make, by their numbers, in the order in which llama.cpp, which knows no merges, would join any two that are one: only where merges say
  // the same is that the same tokenizer.
  Result<std::unordered_map<int64_t, size_t>> order_of_joins() const {
    std::unordered_map<int64_t, size_t> order;
    std::unordered_map<std::string, std::unordered_set<size_t>> splits;  // where the tokens that merges make are cut
    int64_t last = -1;
    for (const auto& [left, right] : merges_of()) {
      const int64_t id = words_.find(left + right)->second;
      if (id != last && !order.emplace(id, order.size()).second)
        return no_tokenizer(
            "the merges into one token side by side, as SentencePiece has them, got others between those into '{}'",
            left + right);
      last = id;
      splits[left + right].insert(left.size());
    }
    for (const auto& [text, id] : words_) {
      // Text that is an added token has been found before.
      if (const int32_t type = types_[static_cast<size_t>(id)]; type == kControl || type == kUserDefined) continue;
      const auto known = splits.find(text);
      for (size_t cut = data::character_end(text, 0); cut < text.size(); cut = data::character_end(text, cut)) {
        if (!words_.contains(std::string_view(text).substr(0, cut)) || !words_.contains(std::string_view(text).substr(cut)))
          continue;
        if (known == splits.end() || !known->second.contains(cut))
          return no_tokenizer("merges of all two tokens that are one, as SentencePiece has them, got none of '{}' and '{}'",
                              text.substr(0, cut), text.substr(cut));
      }
    }
    return order;
  }

  // --- t5

  Status write_unigram() {
    const auto unknown = data::id_of(data::at(model_, "unk_id"));
    if (!unknown) return no_tokenizer("Unigram with an unk_id, got none");
    if (data::flag_at(model_, "byte_fallback")) return no_tokenizer("Unigram without a fallback to bytes, got one");
    bool strips = false, replaces = false;
    std::string table;
    for (const data::Tree& step : canonical(data::at(tree_, "normalizer"), "normalizers")) {
      const std::string type = data::text_at(step, "type"), expression = data::text_at(data::at(step, "pattern"), "Regex");
      if (type == "Precompiled" && table.empty() && !strips && !replaces) {
        table = *data::from_base64(data::text_at(step, "precompiled_charsmap"));  // which parse_tokenizer() has seen
      } else if (type == "Replace" && expression == " {2,}" &&
                 (data::text_at(step, "content") == kSpaceMark || data::text_at(step, "content") == " ")) {
        replaces = true;
      } else if (type == "Strip" && !data::flag_at(step, "strip_left", true) && data::flag_at(step, "strip_right", true)) {
        strips = true;
      } else {
        return no_tokenizer("a table of replacements, and spaces that become one, in front of Unigram, got {}",
                            excerpt(step));
      }
    }
    const data::Tree parts = canonical(data::at(tree_, "pre_tokenizer"), "pretokenizers");
    bool merges_spaces = strips && replaces;
    std::optional<bool> adds_space;
    for (const data::Tree& part : parts) {
      if (data::text_at(part, "type") == "WhitespaceSplit" && !adds_space) {
        merges_spaces = true;
      } else if (data::text_at(part, "type") == "Metaspace" && !adds_space) {
        BITLAB_TRY(adds_space, space_of_metaspace(part));
      } else {
        return no_tokenizer("Metaspace in front of Unigram, got {}", excerpt(part));
      }
    }
    if (!adds_space) return no_tokenizer("Metaspace in front of Unigram, got none");
    // llama.cpp puts a space in front of a text that begins with one, too, unless it makes one of several.
    // Where it does, spaces at the end go.
    if ((*adds_space || strips || replaces) && !merges_spaces)
      return no_tokenizer("spaces that become one, and none at the end, behind a space in front of each text, got {}",
                          excerpt(data::at(tree_, "normalizer")));
    for (const data::Tree& item : data::at(model_, "vocab")) scores_.push_back(static_cast<float>(item[1].get<double>()));
    // Numbers without a token are in llama.cpp's vocabulary, too, with a score that no path takes.
    constexpr float kNever = -1e6F;
    for (size_t id = scores_.size(); id < texts_.size(); ++id) scores_.push_back(types_[id] == kUnused ? kNever : 0);
    types_[static_cast<size_t>(*unknown)] = kUnknown;
    put("model", std::string("t5"));
    put("pre", std::string("default"));
    put("add_space_prefix", *adds_space);
    put("remove_extra_whitespaces", merges_spaces);
    if (!table.empty()) put("precompiled_charsmap", array_of_bytes(std::move(table)));
    return {};
  }

  // --- bert

  Status write_word_piece() {
    const data::Tree normalizer = data::at(tree_, "normalizer");
    const data::Tree parts = canonical(data::at(tree_, "pre_tokenizer"), "pretokenizers");
    if (data::text_at(model_, "continuing_subword_prefix") != "##")
      return no_tokenizer("WordPiece with the prefix ##, got '{}'", data::text_at(model_, "continuing_subword_prefix"));
    if (parts.size() != 1 || data::text_at(parts[0], "type") != "BertPreTokenizer")
      return no_tokenizer("BertPreTokenizer in front of WordPiece, got {}", excerpt(data::at(tree_, "pre_tokenizer")));
    if (data::text_at(normalizer, "type") != "BertNormalizer" || !data::flag_at(normalizer, "clean_text", true) ||
        !data::flag_at(normalizer, "handle_chinese_chars", true))
      return no_tokenizer(
          "BertNormalizer, which cleans text and sets Chinese characters apart, in front of WordPiece, got {}",
          excerpt(normalizer));
    const bool lowers = data::flag_at(normalizer, "lowercase", true);
    put("model", std::string("bert"));
    put("pre", std::string("default"));
    put("normalizer.lowercase", lowers);
    put("normalizer.strip_accents", data::flag_at(normalizer, "strip_accents", lowers));
    names_ = texts_;
    for (size_t id = 0; id < texts_.size(); ++id) {
      std::string& text = texts_[id];
      if (types_[id] != kNormal) continue;
      // Without its prefix it would be a token that begins a word.
      if (text.starts_with(fmt::format("##{}", kSpaceMark)))
        types_[id] = kUnused;
      else
        text = text.starts_with("##") ? text.substr(2) : fmt::format("{}{}", kSpaceMark, text);
    }
    return {};
  }

  // --- all

  void name_unknown(std::string_view text) {
    if (const auto found = words_.find(text); found != words_.end()) types_[static_cast<size_t>(found->second)] = kUnknown;
  }

  Status write_tokens() {
    std::unordered_set<std::string_view> seen;
    for (size_t id = 0; id < texts_.size(); ++id) {
      if (types_[id] == kUnused && texts_[id].empty()) texts_[id] = unused_name(id);
      if (texts_[id].empty() || !seen.insert(texts_[id]).second)
        return no_tokenizer("tokens of texts that no other one has, got '{}' for {}", texts_[id], id);
    }
    put("tokens", array_of(texts_));
    if (!scores_.empty()) put("scores", array_of(scores_));
    put("token_type", array_of(types_));
    return {};
  }

  std::optional<int64_t> token(std::string_view text) const {
    const std::vector<std::string>& names = names_.empty() ? texts_ : names_;
    const auto found = text.empty() ? names.end() : std::find(names.begin(), names.end(), text);
    return found == names.end() ? std::nullopt : std::optional(found - names.begin());
  }

  // In front of a text and behind it.
  struct Around {
    std::vector<std::string> front, back;
  };
  static void add_around(const data::Tree& processor, Around& around) {
    const std::string type = data::text_at(processor, "type");
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      // [text, number]
      for (const auto& [key, list] : {std::pair("cls", &around.front), {"sep", &around.back}})
        if (const data::Tree& token = data::at(processor, key);
            token.is_array() && token.size() == 2 && token[0].is_string())
          list->push_back(token[0].get<std::string>());
    }
    bool is_front = true;
    for (const data::Tree& item : data::at(processor, "single")) {
      if (!data::at(item, "Sequence").is_null()) is_front = false;
      if (!data::at(item, "SpecialToken").is_null())
        (is_front ? around.front : around.back).push_back(data::text_at(data::at(item, "SpecialToken"), "id"));
    }
  }

  Status write_specials() {
    Around around;
    BITLAB_RETURN_IF_ERROR(
        data::at(tree_, "post_processor").is_null()
            ? Status()
            : data::for_each_part(data::at(tree_, "post_processor"), "processors", [&](const data::Tree& part) -> Status {
                add_around(part, around);
                return {};
              }));
    if (around.front.size() > 1 || around.back.size() > 1)
      return no_tokenizer("at most one token in front of a text and one behind it, got {} and {}", around.front.size(),
                          around.back.size());
    const bool is_bert = std::get<std::string>(pairs_.front().second) == "bert";
    const auto front = around.front.empty() ? std::nullopt : token(around.front[0]);
    const auto back = around.back.empty() ? std::nullopt : token(around.back[0]);
    std::optional<int64_t> first, last;
    for (const Special& special : kSpecials) {
      std::optional<int64_t> id = token(name_of(special.config));
      const std::string_view key = special.config;
      if (key == "unk_token" && !id) id = unknown();
      if (key == (is_bert ? "cls_token" : "bos_token") && front) id = front;
      if (key == (is_bert ? "sep_token" : "eos_token") && back) id = back;
      if (key == "bos_token" && is_bert) id = front ? front : token(name_of("cls_token"));
      if (key == "bos_token") first = id;
      if (key == (is_bert ? "sep_token" : "eos_token")) last = id;
      if (id) put(special.key, *id);
    }
    if (is_bert) {
      put("add_bos_token", first.has_value());
      put("add_sep_token", last.has_value());
    } else {
      const bool is_told = !data::at(tree_, "post_processor").is_null();
      put("add_bos_token", first && (front || (!is_told && data::flag_at(config_, "add_bos_token"))));
      put("add_eos_token", last && (back || (!is_told && data::flag_at(config_, "add_eos_token"))));
    }
    if (const std::string chat = data::text_at(config_, "chat_template"); !chat.empty())
      pairs_.emplace_back(std::string(kChatTemplate), chat);
    return {};
  }

  std::optional<int64_t> unknown() const {
    const auto found = std::find(types_.begin(), types_.end(), kUnknown);
    return found != types_.end() ? std::optional(found - types_.begin()) : token(data::text_at(model_, "unk_token"));
  }

  // As tokenizer_config.json says it, or else the usual texts of special tokens.
  std::string name_of(std::string_view special) const {
    const data::Tree& said = data::at(config_, std::string(special).c_str());
    if (said.is_string()) return said.get<std::string>();
    if (said.is_object()) return data::text_at(said, "content");
    if (!config_.is_null()) return "";
    constexpr std::pair<std::string_view, std::string_view> kUsual[] = {{"bos_token", "<s>"},
                                                                        {"bos_token", "<bos>"},
                                                                        {"bos_token", "<|begin_of_text|>"},
                                                                        {"eos_token", "</s>"},
                                                                        {"eos_token", "<eos>"},
                                                                        {"eos_token", "<|endoftext|>"},
                                                                        {"eos_token", "<|end_of_text|>"},
                                                                        {"sep_token", "[SEP]"},
                                                                        {"pad_token", "<pad>"},
                                                                        {"pad_token", "[PAD]"},
                                                                        {"cls_token", "[CLS]"},
                                                                        {"mask_token", "[MASK]"},
                                                                        {"mask_token", "<mask>"}};
    for (const auto& [key, text] : kUsual)
      if (const auto id = token(text); key == special && id && types_[static_cast<size_t>(*id)] == kControl)
        return std::string(text);
    return "";
  }

  const data::Tree& tree_;
  const data::Tree& config_;
  const data::Tree& model_;
  data::Vocabulary words_;          // of the model
  std::vector<std::string> texts_;  // by number
  std::vector<std::string> names_;  // as the tokenizer.json calls them, where that is another
  std::vector<int32_t> types_;
  std::vector<float> scores_;
  Pairs pairs_;
};

}  // namespace

Result<Pairs> tokenizer_metadata(const data::TokenizerFiles& files, int64_t vocabulary) {
  if (files.tokenizer.empty()) return Pairs{{std::string(kTokenizerPrefix) + "model", std::string("none")}};
  const data::Tree tree = data::Tree::parse(files.tokenizer, nullptr, false);
  BITLAB_TRY(const data::TokenizerPtr known, data::read_tokenizer(tree));
  data::Tree config;
  if (!files.config.empty()) {
    config = data::Tree::parse(files.config, nullptr, false);
    if (!config.is_object())
      return make_error(ErrorCode::kCorrupt, "[gguf] a tokenizer_config.json that is a JSON object, got another form");
  }
  return TokenizerWriter(tree, config).write(known->size(), vocabulary);
}

}  // namespace bitlab::format::gguf
