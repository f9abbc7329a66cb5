#include "bitlab/data/internal/tokenizer_json.h"

#include <algorithm>
#include <array>

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

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

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  while (text.ends_with('=')) text.remove_suffix(1);
  std::array<int, 256> values;
  values.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i) values[static_cast<uint8_t>(kBase64[i])] = static_cast<int>(i);
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int value = values[static_cast<uint8_t>(c)];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) out += static_cast<char>(bits >> (count -= 8) & 0xFF);
  }
  return out;
}

std::string to_base64(std::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i) bits = bits << 8 | (i < count ? static_cast<uint8_t>(bytes[at + i]) : 0);
    for (size_t i = 0; i < 4; ++i) text += i <= count ? kBase64[bits >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

}  // namespace bitlab::data
