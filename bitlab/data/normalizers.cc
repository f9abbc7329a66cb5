#include <algorithm>
#include <optional>

#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/steps.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

// A step on characters.
template <class F>
Normalizer on_characters(F change) {
  return [change](const std::string& text) -> Result<std::string> {
    BITLAB_TRY(const std::u32string characters, from_utf8(text));
    return to_utf8(change(characters));
  };
}

template <class F>
Normalizer without(F goes) {
  return on_characters([goes](std::u32string text) {
    std::erase_if(text, goes);
    return text;
  });
}

Normalizer form_step(NormalForm form) {
  return on_characters([form](const std::u32string& text) { return normalized(text, form); });
}

std::u32string stripped(std::u32string_view text, bool left, bool right) {
  while (left && !text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (right && !text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::u32string(text);
}

// SentencePiece's rule "nmt": control characters go, what looks like a space becomes one.
std::u32string nmt(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text) {
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) continue;
    const bool is_blank = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                          c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    out += is_blank ? U' ' : c;
  }
  return out;
}

// SentencePiece's table of replacements: the number of bytes of a double-array trie (Darts-clone), the trie, and the texts that its values are places in, each with a
// zero behind it.
class CharsMap {
 public:
  static Result<CharsMap> read(const Tree& tree) {
    const auto bytes = from_base64(text_at(tree, "precompiled_charsmap"));
    if (!bytes || bytes->size() < 4) return corrupt_tokenizer("a precompiled_charsmap in base64");
    const auto word = [&](size_t place) {
      uint32_t value = 0;
      for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>((*bytes)[place + i]);
      return value;
    };
    const size_t size = word(0);
    if (size == 0 || size % 4 != 0 || size > bytes->size() - 4)
      return corrupt_tokenizer("a precompiled_charsmap with a trie and texts");
    CharsMap map;
    for (size_t i = 0; i < size; i += 4) map.units_.push_back(word(4 + i));
    map.texts_ = bytes->substr(4 + size);
    if (!from_utf8(map.texts_).ok()) return corrupt_tokenizer("a precompiled_charsmap with texts in UTF-8");
    BITLAB_TRY(map.graphemes_, Pattern::graphemes());
    return map;
  }

  // Each grapheme of at most five bytes by what the shortest of the table that it begins with becomes, else its characters so. That is the reference's rule.
  Result<std::string> apply(std::string_view text) const {
    constexpr size_t kLongest = 5;
    std::string out;
    BITLAB_TRY(const std::vector<Span> graphemes, graphemes_.matches(text));
    for (const Span& span : graphemes) {
      const std::string_view grapheme = text.substr(span.begin, span.end - span.begin);
      std::optional<std::string_view> found;
      if (grapheme.size() <= kLongest) found = replacement(grapheme);
      if (found) {
        out += *found;
        continue;
      }
      for (size_t begin = 0; begin < grapheme.size();) {
        const size_t end = character_end(grapheme, begin);
        const std::string_view character = grapheme.substr(begin, end - begin);
        out += replacement(character).value_or(character);
        begin = end;
      }
    }
    return out;
  }

 private:
  std::optional<std::string_view> replacement(std::string_view key) const {
    const auto offset = [](uint32_t unit) -> size_t { return (unit >> 10) << ((unit & 1U << 9) >> 6); };
    size_t place = offset(units_[0]);
    for (const char c : key) {
      const auto byte = static_cast<uint8_t>(c);
      place ^= byte;
      if (byte == 0 || place >= units_.size() || (units_[place] & (1U << 31 | 0xFF)) != byte) return std::nullopt;
      const uint32_t unit = units_[place];
      place ^= offset(unit);
      if ((unit >> 8 & 1) == 0) continue;
      if (place >= units_.size()) return std::nullopt;
      const size_t begin = units_[place] & ~(1U << 31);
      if (begin >= texts_.size() || continues_character(texts_[begin])) return std::nullopt;
      return std::string_view(texts_).substr(begin, texts_.find('\0', begin) - begin);
    }
    return std::nullopt;
  }

  std::vector<uint32_t> units_;
  std::string texts_;
  Pattern graphemes_;
};

void add_bert(std::vector<Normalizer>& steps, const Tree& tree) {
  const bool lowers = flag_at(tree, "lowercase", true);
  if (flag_at(tree, "clean_text", true)) steps.push_back(on_characters(cleaned_text));
  if (flag_at(tree, "handle_chinese_chars", true)) steps.push_back(on_characters(spaced_chinese));
  if (flag_at(tree, "strip_accents", lowers)) {
    steps.push_back(form_step(NormalForm::kNfd));
    steps.push_back(without(is_mark));
  }
  if (lowers) steps.push_back(on_characters(lower));
}

Status add_normalizer(std::vector<Normalizer>& steps, const Tree& tree) {
  const std::string type = text_at(tree, "type");
  if (type == "BertNormalizer") {
    add_bert(steps, tree);
  } else if (type == "Lowercase") {
    steps.push_back(on_characters(lower));
  } else if (type == "StripAccents") {
    steps.push_back(without(is_combining));
  } else if (type == "NFD") {
    steps.push_back(form_step(NormalForm::kNfd));
  } else if (type == "NFC") {
    steps.push_back(form_step(NormalForm::kNfc));
  } else if (type == "NFKD") {
    steps.push_back(form_step(NormalForm::kNfkd));
  } else if (type == "NFKC") {
    steps.push_back(form_step(NormalForm::kNfkc));
  } else if (type == "Nmt") {
    steps.push_back(on_characters(nmt));
  } else if (type == "Strip") {
    const bool left = flag_at(tree, "strip_left", true), right = flag_at(tree, "strip_right", true);
    steps.push_back(on_characters([left, right](const std::u32string& text) { return stripped(text, left, right); }));
  } else if (type == "Prepend") {
    steps.emplace_back([front = text_at(tree, "prepend")](const std::string& text) -> Result<std::string> {
      return text.empty() ? text : front + text;
    });
  } else if (type == "Replace") {
    BITLAB_TRY(const Pattern pattern, pattern_at(tree, "pattern"));
    steps.emplace_back([pattern, content = text_at(tree, "content")](const std::string& text) -> Result<std::string> {
      BITLAB_TRY(const std::vector<Span> found, pattern.matches(text));
      return with_replaced(text, found, content);
    });
  } else if (type == "Precompiled") {
    BITLAB_TRY(const CharsMap map, CharsMap::read(tree));
    steps.emplace_back([map](const std::string& text) { return map.apply(text); });
  } else if (type == "ByteLevel") {
    steps.emplace_back([](const std::string& text) -> Result<std::string> { return spelled_bytes(text); });
  } else {
    return unsupported_tokenizer("normalizer", type);
  }
  return {};
}

}  // namespace

Result<std::vector<Normalizer>> read_normalizers(const Tree& tree) {
  std::vector<Normalizer> steps;
  if (!tree.is_null())
    BITLAB_RETURN_IF_ERROR(
        for_each_part(tree, "normalizers", [&](const Tree& part) { return add_normalizer(steps, part); }));
  return steps;
}

std::string with_replaced(std::string_view text, const std::vector<Span>& parts, std::string_view content) {
  std::string out;
  size_t begin = 0;
  for (const Span& part : parts) {
    out += text.substr(begin, part.begin - begin);
    out += content;
    begin = part.end;
  }
  return out += text.substr(begin);
}

}  // namespace bitlab::data
