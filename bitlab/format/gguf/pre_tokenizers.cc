#include "bitlab/format/gguf/internal/tokenizer.h"

namespace bitlab::format::gguf {
namespace {

using data::Tree;

Tree byte_level(bool cuts) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", cuts}};
}
Tree digits(bool one_by_one) { return {{"type", "Digits"}, {"individual_digits", one_by_one}}; }
Tree split(std::string_view expression) {
  return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Tree sequence(std::vector<Tree> parts) { return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}}; }

using Expressions = std::vector<std::string_view>;
Tree cut_ByteLevel(const Expressions&) { return byte_level(true); }
Tree cut_DigitsByteLevel(const Expressions&) { return sequence({digits(true), byte_level(true)}); }
Tree cut_Falcon(const Expressions&) {
  return sequence(
      {{{"type", "Punctuation"}, {"behavior", "Contiguous"}}, byte_level(true), digits(false), split("[0-9][0-9][0-9]")});
}
Tree cut_Splits(const Expressions& expressions) {
  std::vector<Tree> parts;
  for (const std::string_view expression : expressions) parts.push_back(split(expression));
  parts.push_back(byte_level(false));
  return sequence(std::move(parts));
}

// The same expression may have a line break as it is or as an escape, and a mark with a backslash that it does not need.
std::string plain(std::string expression) {
  for (const auto& [from, to] : {std::pair("\r", "\\r"), {"\n", "\\n"}, {"\\\"", "\""}})
    for (size_t at = 0; (at = expression.find(from, at)) != std::string::npos; at += std::string_view(to).size())
      expression.replace(at, std::string_view(from).size(), to);
  return expression;
}

Tree canonical_part(const Tree& part) {
  const std::string type = data::text_at(part, "type");
  const auto with = [&](const char* key, const Tree& unasked) {
    return data::at(part, key).is_null() ? unasked : data::at(part, key);
  };
  if (type == "ByteLevel") return {type, with("add_prefix_space", true), with("use_regex", true)};
  if (type == "Digits") return {type, with("individual_digits", false)};
  if (type == "Punctuation") return {type, with("behavior", "Isolated")};
  if (type != "Split") return part;
  // An expression that matches every text to its end leaves nothing between its matches.
  const std::string expression = plain(data::text_at(data::at(part, "pattern"), "Regex"));
  if (with("behavior", "") == "Removed" && with("invert", false) == true && expression.ends_with("|\\s+"))
    return canonical_part(split(expression));
  if (!expression.empty()) return {type, expression, with("behavior", ""), with("invert", false)};
  return {type, data::at(part, "pattern"), with("behavior", ""), with("invert", false)};
}

}  // namespace

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> list{
#define BITLAB_GGUF_PRE(names, whole_words, adds_bos, cut, ...) \
  PreTokenizer{names, whole_words, adds_bos, cut_##cut(Expressions{__VA_ARGS__})},
#include "bitlab/format/gguf/pre_tokenizers.def"
  };
  return list;
}

Tree canonical(const Tree& section, const char* list) {
  Tree parts = Tree::array();
  if (section.is_null()) return parts;
  const Status all = data::for_each_part(section, list, [&](const Tree& part) -> Status {
    parts.push_back(canonical_part(part));
    return {};
  });
  return all.ok() ? parts : Tree();
}

}  // namespace bitlab::format::gguf
