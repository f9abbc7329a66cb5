#include "bitlab/data/internal/tokenizer_json.h"

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {

Error corrupt_tokenizer(std::string_view expectation) {
  return make_error(ErrorCode::kCorrupt, "[tokenizer] {}, got another form", expectation);
}

Error unsupported_tokenizer(std::string_view what, std::string_view name) {
  return make_error(ErrorCode::kUnsupported, "[tokenizer] a {} that is known here, got '{}'", what, name);
}

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

bool flag_at(const Tree& tree, const char* key, bool fallback) {
  const Tree& value = at(tree, key);
  return value.is_boolean() ? value.get<bool>() : fallback;
}

std::optional<int64_t> id_of(const Tree& value) {
  constexpr int64_t kMaxVocabulary = 1 << 24;
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxVocabulary) return std::nullopt;
  return value.get<int64_t>();
}

Result<Pattern> pattern_at(const Tree& tree, const char* key) {
  const Tree& value = at(tree, key);
  if (value.is_string()) return Pattern::literal(value.get<std::string>());
  if (at(value, "String").is_string()) return Pattern::literal(text_at(value, "String"));
  if (at(value, "Regex").is_string()) return Pattern::regex(text_at(value, "Regex"));
  return corrupt_tokenizer("a pattern that is a String or a Regex");
}

Result<std::string> character_at(const Tree& tree, const char* key) {
  std::string text = text_at(tree, key);
  if (text.empty() || character_end(text, 0) != text.size())
    return corrupt_tokenizer(fmt::format("a {} of one character", key));
  return text;
}

}  // namespace bitlab::data
