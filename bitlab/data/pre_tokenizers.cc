#include "bitlab/data/internal/pieces.h"
#include "bitlab/data/internal/steps.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

// A piece is parts that match and parts between them; what becomes of those that match.
enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct Part {
  size_t begin, end;
  bool matches;
};

Result<Behavior> behavior_at(const Tree& tree, const char* fallback) {
  const std::string name = at(tree, "behavior").is_null() ? fallback : text_at(tree, "behavior");
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return unsupported_tokenizer("behavior of a pre-tokenizer", name);
}

std::vector<Part> parts_of(size_t size, const std::vector<Span>& found, bool inverts) {
  std::vector<Part> parts;
  size_t begin = 0;
  for (const Span& span : found) {
    if (begin != span.begin) parts.push_back({begin, span.begin, inverts});
    parts.push_back({span.begin, span.end, !inverts});
    begin = span.end;
  }
  if (begin != size) parts.push_back({begin, size, inverts});
  return parts;
}

// The parts that remain. One joins the part in front of it where one of the two matches and the part on the other side of that one does not.
std::vector<Part> behaved(const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> out;
  bool matched_before = false;
  for (const Part& part : parts) {
    const bool joins = (behavior == Behavior::kMergedWithPrevious && part.matches && !matched_before) ||
                       (behavior == Behavior::kMergedWithNext && !part.matches && matched_before) ||
                       (behavior == Behavior::kContiguous && part.matches == matched_before);
    matched_before = part.matches;
    if (behavior == Behavior::kRemoved && part.matches) continue;
    if (joins && !out.empty())
      out.back().end = part.end;
    else
      out.push_back(part);
  }
  return out;
}

// Makes several pieces of each one: cut(piece, out).
template <class F>
Cutter for_each_piece(F cut) {
  return [cut](std::vector<Piece>& pieces) -> Status {
    std::vector<Piece> out;
    out.reserve(pieces.size());
    for (Piece& piece : pieces) BITLAB_RETURN_IF_ERROR(cut(piece, out));
    pieces = std::move(out);
    return {};
  };
}

void put_parts(std::vector<Piece>& out, const Piece& piece, const std::vector<Span>& found, Behavior behavior,
               bool inverts = false) {
  for (const Part& part : behaved(parts_of(piece.text.size(), found, inverts), behavior))
    if (part.end > part.begin)
      out.push_back({piece.text.substr(part.begin, part.end - part.begin), piece.is_first && part.begin == 0});
}

Cutter at_pattern(const Pattern& pattern, Behavior behavior, bool inverts = false) {
  return for_each_piece([pattern, behavior, inverts](const Piece& piece, std::vector<Piece>& out) -> Status {
    BITLAB_TRY(const std::vector<Span> found, pattern.matches(piece.text));
    put_parts(out, piece, found, behavior, inverts);
    return {};
  });
}

// Each character of its own that is(character).
Cutter at_characters(bool (*is)(char32_t), Behavior behavior) {
  return for_each_piece([is, behavior](const Piece& piece, std::vector<Piece>& out) -> Status {
    std::vector<Span> found;
    for (size_t begin = 0, end = 0; begin < piece.text.size(); begin = end)
      if (is(next_character(piece.text, end))) found.push_back({begin, end});
    put_parts(out, piece, found, behavior);
    return {};
  });
}

Status put_words(std::vector<Piece>& out, const Piece& piece, const Splitter& split) {
  BITLAB_TRY(const std::u32string characters, from_utf8(piece.text));
  split(characters, [&](std::u32string_view word) {
    out.push_back({to_utf8(word), piece.is_first && word.data() == characters.data()});
  });
  return {};
}

Cutter byte_level(bool has_space_in_front, bool splits) {
  return for_each_piece([has_space_in_front, splits](Piece& piece, std::vector<Piece>& out) -> Status {
    if (has_space_in_front && !piece.text.starts_with(' ')) piece.text.insert(0, 1, ' ');
    const size_t begin = out.size();
    if (splits)
      BITLAB_RETURN_IF_ERROR(put_words(out, piece, split_byte_level));
    else
      out.push_back(piece);
    for (size_t i = begin; i < out.size(); ++i) out[i].text = spelled_bytes(out[i].text);
    return {};
  });
}

// Spaces become `mark`, which words begin with.
Cutter metaspace(const std::string& mark, const Pattern& pattern, Scheme scheme, bool splits) {
  return for_each_piece([=](Piece& piece, std::vector<Piece>& out) -> Status {
    std::string text;
    for (const char c : piece.text)
      if (c == ' ')
        text += mark;
      else
        text += c;
    const bool wants = scheme == Scheme::kAlways || (scheme == Scheme::kFirst && piece.is_first);
    if (wants && !text.starts_with(mark)) text.insert(0, mark);
    piece.text = std::move(text);
    if (!splits) return out.push_back(std::move(piece)), Status();
    BITLAB_TRY(const std::vector<Span> found, pattern.matches(piece.text));
    put_parts(out, piece, found, Behavior::kMergedWithNext);
    return {};
  });
}

Result<Cutter> read_metaspace(const Tree& tree) {
  BITLAB_TRY(const std::string mark, character_at(tree, "replacement"));
  BITLAB_TRY(const Scheme scheme, metaspace_scheme(tree));
  BITLAB_TRY(const Pattern pattern, Pattern::literal(mark));
  return metaspace(mark, pattern, scheme, flag_at(tree, "split", true));
}

Status add_cutter(std::vector<Cutter>& steps, const Tree& tree) {
  const std::string type = text_at(tree, "type");
  if (type == "ByteLevel") {
    steps.push_back(byte_level(flag_at(tree, "add_prefix_space", true), flag_at(tree, "use_regex", true)));
  } else if (type == "BertPreTokenizer") {
    steps.push_back(for_each_piece([](const Piece& p, std::vector<Piece>& out) { return put_words(out, p, split_bert); }));
  } else if (type == "WhitespaceSplit") {
    steps.push_back(at_characters(is_space, Behavior::kRemoved));
  } else if (type == "Whitespace") {
    steps.push_back(for_each_piece([](const Piece& p, std::vector<Piece>& out) { return put_words(out, p, split_words); }));
  } else if (type == "Punctuation") {
    BITLAB_TRY(const Behavior behavior, behavior_at(tree, "Isolated"));
    steps.push_back(at_characters(is_punctuation_mark, behavior));
  } else if (type == "Digits") {
    steps.push_back(
        at_characters(is_number, flag_at(tree, "individual_digits") ? Behavior::kIsolated : Behavior::kContiguous));
  } else if (type == "CharDelimiterSplit") {
    BITLAB_TRY(const std::string delimiter, character_at(tree, "delimiter"));
    BITLAB_TRY(const Pattern pattern, Pattern::literal(delimiter));
    steps.push_back(at_pattern(pattern, Behavior::kRemoved));
  } else if (type == "Split") {
    BITLAB_TRY(const Pattern pattern, pattern_at(tree, "pattern"));
    BITLAB_TRY(const Behavior behavior, behavior_at(tree, ""));
    steps.push_back(at_pattern(pattern, behavior, flag_at(tree, "invert")));
  } else if (type == "Metaspace") {
    BITLAB_TRY(Cutter step, read_metaspace(tree));
    steps.push_back(std::move(step));
  } else {
    return unsupported_tokenizer("pre-tokenizer", type);
  }
  return {};
}

}  // namespace

Result<Scheme> metaspace_scheme(const Tree& tree) {
  const std::string name = text_at(tree, "prepend_scheme");
  if (name.empty())
    return flag_at(tree, "add_prefix_space", true) ? Scheme::kAlways : Scheme::kNever;  // as older files say it
  if (name == "always") return Scheme::kAlways;
  if (name == "first") return Scheme::kFirst;
  if (name == "never") return Scheme::kNever;
  return unsupported_tokenizer("prepend_scheme", name);
}

Result<std::vector<Cutter>> read_cutters(const Tree& tree) {
  std::vector<Cutter> steps;
  if (!tree.is_null())
    BITLAB_RETURN_IF_ERROR(for_each_part(tree, "pretokenizers", [&](const Tree& part) { return add_cutter(steps, part); }));
  return steps;
}

}  // namespace bitlab::data
