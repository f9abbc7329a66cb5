// What the readers of a tokenizer.json's parts share.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "bitlab/base/result.h"
#include "bitlab/data/internal/regex.h"
#include "bitlab/data/tokenizer.h"

namespace bitlab::data {

// Not base's Json, whose objects search all keys for each that is added: a vocabulary has many.
using Tree = nlohmann::json;

// parse_tokenizer() of what is parsed already.
Result<TokenizerPtr> read_tokenizer(const Tree& tree);

Error corrupt_tokenizer(std::string_view expectation);
Error unsupported_tokenizer(std::string_view what, std::string_view name);

// A field of an object; null where there is none.
const Tree& at(const Tree& tree, const char* key);
std::string text_at(const Tree& tree, const char* key);
bool flag_at(const Tree& tree, const char* key, bool fallback = false);
// A number of a vocabulary, which has at most 2^24.
std::optional<int64_t> id_of(const Tree& value);
// {"String": text} or {"Regex": text}; a text alone, as older files have it. Errors: Corrupt, those of Pattern.
Result<Pattern> pattern_at(const Tree& tree, const char* key);
// One character. Error: Corrupt.
Result<std::string> character_at(const Tree& tree, const char* key);

// Bytes as RFC 4648 has them. Nothing for a text that is none.
std::optional<std::string> from_base64(std::string_view text);
std::string to_base64(std::string_view bytes);

// Calls read(part) for a part, or for each part of a "Sequence", whose list is called `list`. Errors: Corrupt (no list, sequences more than 8 deep), those of read().
template <class F>
Status for_each_part(const Tree& tree, const char* list, const F& read, int depth = 0) {
  if (text_at(tree, "type") != "Sequence") return read(tree);
  const Tree& parts = at(tree, list);
  if (!parts.is_array() || depth > 8) return corrupt_tokenizer("a list of parts, no more than 8 within each other");
  for (const Tree& part : parts) BITLAB_RETURN_IF_ERROR(for_each_part(part, list, read, depth + 1));
  return {};
}

}  // namespace bitlab::data
