// The keys of a GGUF file as a tokenizer.json.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/unicode.h"
#include "bitlab/format/gguf/internal/tokenizer.h"

namespace bitlab::format::gguf {
namespace {

template <class... Args>
Error corrupt_keys(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[gguf] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}
template <class... Args>
Error unsupported_keys(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kUnsupported, "[gguf] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

data::Tree replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}
// The number with the fewest digits that float32 has there: those of others would not read one of more digits to its last bit.
double shortest(double value) {
  const std::string digits = fmt::format("{}", static_cast<float>(value));
  double found = value;
  std::from_chars(digits.data(), digits.data() + digits.size(), found);
  return found;
}

data::Tree metaspace(bool adds_space) {
  return {{"type", "Metaspace"},
          {"replacement", kSpaceMark},
          {"prepend_scheme", adds_space ? "always" : "never"},
          {"split", false}};
}
data::Tree sequence(const char* list, std::vector<data::Tree> parts) {
  return {{"type", "Sequence"}, {list, std::move(parts)}};
}

class TokenizerReader {
 public:
  explicit TokenizerReader(const Contents& file) : file_(file) {}

  Result<data::TokenizerFiles> read() {
    BITLAB_TRY(const auto model, value<std::string>("model"));
    const std::string name = model.value_or("none");
    if (name == "none" || name == "no_vocab") return data::TokenizerFiles();
    BITLAB_RETURN_IF_ERROR(read_tokens());
    data::Tree described;
    if (name == "gpt2") {
      BITLAB_TRY(described, bpe_on_bytes());
    } else if (name == "llama") {
      BITLAB_TRY(described, sentence_piece());
    } else if (name == "t5") {
      BITLAB_TRY(described, unigram());
    } else if (name == "bert") {
      BITLAB_TRY(described, word_piece());
    } else {
      return unsupported_keys("a tokenizer of gpt2, llama, t5, bert, got {}", name);
    }
    described["version"] = "1.0";
    described["truncation"] = described["padding"] = data::Tree();
    described["added_tokens"] = added();
    data::Tree config{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
    BITLAB_RETURN_IF_ERROR(read_specials(name, described, config));
    BITLAB_RETURN_IF_ERROR(data::read_tokenizer(described));
    return data::TokenizerFiles{described.dump(), config.dump(2)};
  }

 private:
  const Metadata* find(std::string_view key) const {
    const auto found = file_.metadata.find(std::string(kTokenizerPrefix) + std::string(key));
    return found == file_.metadata.end() ? nullptr : &found->second;
  }
  template <class T>
  Result<std::optional<T>> value(std::string_view key) const {
    const Metadata* found = find(key);
    if (found == nullptr) return std::optional<T>();
    if (const T* value = std::get_if<T>(found)) return std::optional(*value);
    return corrupt_keys("a {}, got another type (key={}{})",
                        std::is_same_v<T, std::string> ? "text"
                        : std::is_same_v<T, bool>      ? "bool"
                                                       : "number",
                        kTokenizerPrefix, key);
  }
  Result<bool> flag(std::string_view key, bool unasked) const {
    BITLAB_TRY(const auto found, value<bool>(key));
    return found.value_or(unasked);
  }
  // Nothing where there is no such array.
  template <class T>
  Result<std::optional<T>> array(std::string_view key, std::optional<T> (*of)(const Array&)) const {
    const Metadata* found = find(key);
    if (found == nullptr) return std::optional<T>();
    const auto* values = std::get_if<Array>(found);
    std::optional<T> list = values == nullptr ? std::nullopt : of(*values);
    if (!list) return corrupt_keys("an array, got another type (key={}{})", kTokenizerPrefix, key);
    return list;
  }
  // Of as many numbers as there are tokens.
  Result<std::optional<std::vector<double>>> numbers(std::string_view key) const {
    BITLAB_TRY(auto list, array(key, numbers_of));
    if (list && list->size() != texts_.size())
      return corrupt_keys("a number for each of {} tokens, got {} (key={}{})", texts_.size(), list->size(), kTokenizerPrefix,
                          key);
    return list;
  }

  static Status check_text(std::string_view text) {
    if (text.empty() || !data::from_utf8(text).ok()) return corrupt_keys("tokens that are texts in UTF-8, got another one");
    return {};
  }

  Status read_tokens() {
    constexpr size_t kMostTokens = 1 << 24;
    BITLAB_TRY(auto texts, array("tokens", texts_of));
    if (!texts || texts->empty() || texts->size() > kMostTokens)
      return corrupt_keys("1 to {} tokens, got {}", kMostTokens, texts ? texts->size() : 0);
    texts_ = *std::move(texts);
    types_.assign(texts_.size(), kNormal);
    BITLAB_TRY(const auto types, numbers("token_type"));
    for (size_t id = 0; types && id < texts_.size(); ++id) {
      const double type = (*types)[id];
      if (!(type >= 0 && type <= int{kByte}))
        return corrupt_keys("types of tokens up to {}, got {} of token {}", int{kByte}, type, id);
      types_[id] = static_cast<TokenType>(type);
    }
    while (texts_.size() > 1 && types_.back() == kUnused && texts_.back() == unused_name(texts_.size() - 1))
      texts_.pop_back(), types_.pop_back();
    for (size_t id = 0; id < texts_.size(); ++id) {
      BITLAB_RETURN_IF_ERROR(check_text(texts_[id]));
      if (!words_.emplace(texts_[id], static_cast<int64_t>(id)).second)
        return corrupt_keys("one token of a text, got two of '{}'", texts_[id]);
    }
    return {};
  }

  bool is_added(size_t id) const { return types_[id] == kControl || types_[id] == kUserDefined || types_[id] == kUnknown; }

  data::Tree added() const {
    data::Tree list = data::Tree::array();
    for (size_t id = 0; id < texts_.size(); ++id)
      if (is_added(id))
        list.push_back({{"id", id},
                        {"content", texts_[id]},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", types_[id] != kUserDefined}});
    return list;
  }

  data::Tree vocabulary() const {
    data::Tree words = data::Tree::object();
    for (size_t id = 0; id < texts_.size(); ++id) words[texts_[id]] = id;
    return words;
  }
  data::Tree bpe(std::vector<data::Tree> merges, bool falls_back, bool whole_words, const data::Tree& unknown) const {
    return {{"type", "BPE"},
            {"dropout", data::Tree()},
            {"unk_token", unknown},
            {"continuing_subword_prefix", data::Tree()},
            {"end_of_word_suffix", data::Tree()},
            {"fuse_unk", falls_back},
            {"byte_fallback", falls_back},
            {"ignore_merges", whole_words},
            {"vocab", vocabulary()},
            {"merges", std::move(merges)}};
  }

  Result<data::Tree> bpe_on_bytes() {
    BITLAB_TRY(const auto pre, value<std::string>("pre"));
    const PreTokenizer* found = nullptr;
    for (const PreTokenizer& known : pre_tokenizers())
      if (pre && pre->find(' ') == std::string::npos &&
          fmt::format(" {} ", known.names).find(" " + *pre + " ") != std::string::npos)
        found = &known;
    if (found == nullptr)
      return unsupported_keys("a way of cutting text that is known here (pre_tokenizers.def), got '{}'", pre.value_or(""));
    adds_bos_ = found->adds_bos;
    BITLAB_TRY(const auto list, array("merges", texts_of));
    if (!list) return corrupt_keys("merges, got none");
    std::vector<data::Tree> merges;
    for (const std::string& text : *list) {
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos)
        return corrupt_keys("merges of two tokens, got '{}'", data::from_utf8(text).ok() ? text : "");
      const std::string left = text.substr(0, space), right = text.substr(space + 1);
      if (!words_.contains(left) || !words_.contains(right) || !words_.contains(left + right))
        return corrupt_keys("merges of tokens into tokens, got one of others at {}", merges.size());
      merges.push_back({left, right});
    }
    return data::Tree{
        {"normalizer", data::Tree()},
        {"pre_tokenizer", found->tree},
        {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
        {"model", bpe(std::move(merges), false, found->whole_words, data::Tree())}};
  }

  Result<std::vector<double>> scores() const {
    BITLAB_TRY(auto list, array("scores", numbers_of));
    if (!list || list->size() < texts_.size())
      return corrupt_keys("a score for each of {} tokens, got {}", texts_.size(), list ? list->size() : 0);
    for (const double score : *list)
      if (!std::isfinite(score)) return corrupt_keys("finite scores, got {}", score);
    return *std::move(list);
  }

  // Merges of all two tokens that are one, those of the highest score first, as the package transformers has them.
  Result<std::vector<data::Tree>> merges_by_score() const {
    constexpr size_t kLongest = 256;
    const size_t most = 16 * texts_.size() + 1024;
    BITLAB_TRY(const std::vector<double> score, scores());
    struct Join {
      size_t id, left_characters, right_characters;
      int64_t left, right;
      size_t cut;
    };
    std::vector<Join> joins;
    for (size_t id = 0; id < texts_.size(); ++id) {
      const std::string_view text = texts_[id];
      if (types_[id] == kUnused || is_added(id)) continue;  // added tokens are found in a text before
      if (text.size() > kLongest)
        return unsupported_keys("pieces of at most {} bytes, got {} of token {}", kLongest, text.size(), id);
      const auto all =
          static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !data::continues_character(c); }));
      size_t characters = 0;
      for (size_t cut = data::character_end(text, 0); cut < text.size(); cut = data::character_end(text, cut)) {
        ++characters;
        const auto left = words_.find(text.substr(0, cut)), right = words_.find(text.substr(cut));
        if (left != words_.end() && right != words_.end())
          joins.push_back({id, characters, all - characters, left->second, right->second, cut});
      }
      if (joins.size() > most) return unsupported_keys("at most {} merges of {} tokens, got more", most, texts_.size());
    }
    std::stable_sort(joins.begin(), joins.end(),
                     [](const Join& a, const Join& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
    std::stable_sort(joins.begin(), joins.end(), [&](const Join& a, const Join& b) {
      if (score[a.id] != score[b.id]) return score[a.id] > score[b.id];
      return std::tuple(a.id, b.left_characters, b.right_characters) <
             std::tuple(b.id, a.left_characters, a.right_characters);
    });
    std::vector<data::Tree> merges;
    for (const Join& join : joins) merges.push_back({texts_[join.id].substr(0, join.cut), texts_[join.id].substr(join.cut)});
    return merges;
  }

  Result<data::Tree> sentence_piece() {
    BITLAB_TRY(const bool adds_space, flag("add_space_prefix", true));
    BITLAB_TRY(std::vector<data::Tree> merges, merges_by_score());
    adds_bos_ = true;
    BITLAB_TRY(const auto unknown, special(kUnknownToken, "llama"));
    std::vector<data::Tree> normalizers{replace(" ", kSpaceMark)},
        decoders{replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (adds_space) {
      normalizers.insert(normalizers.begin(), data::Tree({{"type", "Prepend"}, {"prepend", kSpaceMark}}));
      decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1U}, {"stop", 0U}});
    }
    return data::Tree{{"normalizer", sequence("normalizers", std::move(normalizers))},
                      {"pre_tokenizer", data::Tree()},
                      {"decoder", sequence("decoders", std::move(decoders))},
                      {"model", bpe(std::move(merges), true, false,
                                    unknown ? data::Tree(texts_[static_cast<size_t>(*unknown)]) : data::Tree())}};
  }

  Result<data::Tree> unigram() {
    BITLAB_TRY(const bool adds_space, flag("add_space_prefix", false));
    BITLAB_TRY(const bool merges_spaces, flag("remove_extra_whitespaces", false));
    BITLAB_TRY(const auto table, array("precompiled_charsmap", bytes_of));
    BITLAB_TRY(const auto unknown, special(kUnknownToken, "t5"));
    BITLAB_TRY(const std::vector<double> score, scores());
    if (!unknown) return corrupt_keys("an unknown_token_id, got none");
    adds_eos_ = true;
    data::Tree vocabulary = data::Tree::array();
    for (size_t id = 0; id < texts_.size(); ++id) vocabulary.push_back(data::Tree::array({texts_[id], shortest(score[id])}));
    std::vector<data::Tree> normalizers;
    if (table) normalizers.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", data::to_base64(*table)}});
    if (merges_spaces) {
      normalizers.push_back({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
      normalizers.push_back({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", kSpaceMark}});
    }
    // Metaspace puts no space in front of a text that begins with one; llama.cpp does.
    if (adds_space && !merges_spaces) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
    return data::Tree{{"normalizer", normalizers.empty() ? data::Tree() : sequence("normalizers", std::move(normalizers))},
                      {"pre_tokenizer", metaspace(adds_space && merges_spaces)},
                      {"decoder", metaspace(adds_space)},
                      {"model",
                       {{"type", "Unigram"},
                        {"unk_id", static_cast<uint64_t>(*unknown)},
                        {"vocab", std::move(vocabulary)},
                        {"byte_fallback", false}}}};
  }

  Result<data::Tree> word_piece() {
    BITLAB_TRY(const auto unknown, special(kUnknownToken, "bert"));
    if (!unknown) return corrupt_keys("an unknown_token_id, got none");
    BITLAB_TRY(const bool lowers, flag("normalizer.lowercase", true));
    BITLAB_TRY(const bool strips, flag("normalizer.strip_accents", lowers));
    words_.clear();
    for (size_t id = 0; id < texts_.size(); ++id) {
      if (types_[id] == kNormal)
        texts_[id] = texts_[id].starts_with(kSpaceMark) ? texts_[id].substr(kSpaceMark.size()) : "##" + texts_[id];
      if (!words_.emplace(texts_[id], static_cast<int64_t>(id)).second)
        return corrupt_keys("one token of a text, got two of '{}'", texts_[id]);
    }
    return data::Tree{{"normalizer",
                       {{"type", "BertNormalizer"},
                        {"clean_text", true},
                        {"handle_chinese_chars", true},
                        {"strip_accents", strips},
                        {"lowercase", lowers}}},
                      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
                      {"model",
                       {{"type", "WordPiece"},
                        {"unk_token", texts_[static_cast<size_t>(*unknown)]},
                        {"continuing_subword_prefix", "##"},
                        {"max_input_chars_per_word", 100U},
                        {"vocab", vocabulary()}}}};
  }

  // The number that a file says, or the one that llama.cpp takes where it does not.
  Result<std::optional<int64_t>> special(const Special& special, std::string_view model) const {
    BITLAB_TRY(const auto said, value<int64_t>(special.key));
    const auto size = static_cast<int64_t>(texts_.size());
    if (said && (*said < 0 || *said >= size))
      return corrupt_keys("a token below {}, got {} (key={}{})", size, *said, kTokenizerPrefix, special.key);
    if (said) return said;
    const int64_t unasked = model == "llama"  ? special.of_llama
                            : model == "bert" ? special.of_bert
                            : model == "t5"   ? special.of_t5
                                              : -1;
    const bool is_one = unasked >= 0 && unasked < size && types_[static_cast<size_t>(unasked)] != kNormal;
    return is_one ? std::optional(unasked) : std::nullopt;
  }

  // What stands around a text, and the names of special tokens.
  Status read_specials(std::string_view model, data::Tree& described, data::Tree& config) {
    std::optional<int64_t> front, back;
    for (const Special& known : kSpecials) {
      BITLAB_TRY(const auto id, special(known, model));
      if (!id || (model == "bert" && known.config == "bos_token")) continue;
      config[std::string(known.config)] = texts_[static_cast<size_t>(*id)];
      if (known.config == (model == "bert" ? "cls_token" : "bos_token")) front = id;
      if (known.config == (model == "bert" ? "sep_token" : "eos_token")) back = id;
    }
    BITLAB_TRY(const bool adds_bos, flag("add_bos_token", adds_bos_ || model == "bert"));
    BITLAB_TRY(const bool adds_eos, flag(model == "bert" ? "add_sep_token" : "add_eos_token", adds_eos_ || model == "bert"));
    described["post_processor"] = around(adds_bos ? front : std::nullopt, adds_eos ? back : std::nullopt);
    if (const auto chat = file_.metadata.find(std::string(kChatTemplate)); chat != file_.metadata.end())
      if (const auto* text = std::get_if<std::string>(&chat->second); text != nullptr && data::from_utf8(*text).ok())
        config["chat_template"] = *text;
    return {};
  }

  data::Tree around(std::optional<int64_t> front, std::optional<int64_t> back) const {
    if (!front && !back) return {};
    data::Tree tokens = data::Tree::object();
    const auto with = [&](std::vector<const char*> sequences) {
      data::Tree list = data::Tree::array();
      int64_t type = 0;
      const auto put = [&](std::optional<int64_t> id) {
        if (!id) return;
        const std::string& text = texts_[static_cast<size_t>(*id)];
        tokens[text] = {{"id", text}, {"ids", data::Tree::array({*id})}, {"tokens", data::Tree::array({text})}};
        list.push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
      };
      for (const char* name : sequences) {
        if (name == sequences.front()) put(front);
        list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
        put(back);
        ++type;
      }
      return list;
    };
    const data::Tree single = with({"A"}), pair = with({"A", "B"});
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  }

  const Contents& file_;
  std::vector<std::string> texts_;  // by number
  std::vector<int32_t> types_;
  data::Vocabulary words_;
  bool adds_bos_ = false, adds_eos_ = false;
};

}  // namespace

Result<data::TokenizerFiles> tokenizer_of(const Contents& file) { return TokenizerReader(file).read(); }

}  // namespace bitlab::format::gguf
