#include <algorithm>
#include <array>
#include <optional>

#include "bitlab/data/internal/steps.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> list;
  char32_t next = 256;
  for (size_t b = 0; b < list.size(); ++b) {
    const bool is_printable = (b > 32 && b < 127) || (b > 160 && b != 173);
    append_utf8(list[b], is_printable ? static_cast<char32_t>(b) : next++);
  }
  return list;
}

const std::array<std::string, 256>& spellings() {
  static const std::array<std::string, 256> list = byte_characters();
  return list;
}

// A step that changes each token by itself: change(token, whether it is the first).
template <class F>
Decoder for_each_token(F change) {
  return [change](std::vector<std::string>& tokens) -> Status {
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = change(tokens[i], i == 0);
    return {};
  };
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

// English without the spaces that tokens leave around its marks.
void clean_up(std::string& text) {
  for (const auto& [from, to] : {std::pair(" .", "."),
                                 {" ?", "?"},
                                 {" !", "!"},
                                 {" ,", ","},
                                 {" ' ", "'"},
                                 {" n't", "n't"},
                                 {" 'm", "'m"},
                                 {" do not", " don't"},
                                 {" 's", "'s"},
                                 {" 've", "'ve"},
                                 {" 're", "'re"}})
    replace_all(text, from, to);
}

Decoder word_piece(const std::string& prefix, bool cleans) {
  return for_each_token([prefix, cleans](std::string token, bool is_first) {
    if (!is_first && token.starts_with(prefix))
      token.erase(0, prefix.size());
    else if (!is_first)
      token.insert(0, 1, ' ');
    if (cleans) clean_up(token);
    return token;
  });
}

std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

// Tokens of bytes in a row are their characters; each is U+FFFD where they are none.
Status join_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (from_utf8(bytes).ok())
      out.push_back(bytes);
    else
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_of(token)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
  return {};
}

// Up to so many of a character go from each end of each token.
Decoder strip(const std::string& character, size_t start, size_t stop) {
  return for_each_token([character, start, stop](std::string_view token, bool) {
    for (size_t i = 0; i < start && token.starts_with(character); ++i) token.remove_prefix(character.size());
    for (size_t i = 0; i < stop && token.ends_with(character); ++i) token.remove_suffix(character.size());
    return std::string(token);
  });
}

Status add_decoder(std::vector<Decoder>& steps, const Tree& tree) {
  const std::string type = text_at(tree, "type");
  if (type == "ByteLevel") {
    steps.emplace_back([](std::vector<std::string>& tokens) -> Status {
      std::string bytes;
      for (const std::string& token : tokens) append_spelled(bytes, token);
      tokens = {bytes};
      return {};
    });
  } else if (type == "WordPiece") {
    steps.push_back(word_piece(text_at(tree, "prefix"), flag_at(tree, "cleanup", true)));
  } else if (type == "Metaspace") {
    BITLAB_TRY(const std::string mark, character_at(tree, "replacement"));
    BITLAB_TRY(const Scheme scheme, metaspace_scheme(tree));
    steps.push_back(for_each_token([mark, scheme](std::string token, bool is_first) {
      replace_all(token, mark, is_first && scheme != Scheme::kNever ? "" : " ");
      return token;
    }));
  } else if (type == "BPEDecoder") {
    steps.emplace_back([suffix = text_at(tree, "suffix")](std::vector<std::string>& tokens) -> Status {
      if (suffix.empty()) return {};
      for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
      return {};
    });
  } else if (type == "Replace") {
    BITLAB_TRY(const Pattern pattern, pattern_at(tree, "pattern"));
    steps.emplace_back([pattern, content = text_at(tree, "content")](std::vector<std::string>& tokens) -> Status {
      for (std::string& token : tokens) {
        BITLAB_TRY(const std::vector<Span> found, pattern.matches(token));
        token = with_replaced(token, found, content);
      }
      return {};
    });
  } else if (type == "ByteFallback") {
    steps.emplace_back(join_bytes);
  } else if (type == "Fuse") {
    steps.emplace_back([](std::vector<std::string>& tokens) -> Status {
      std::string text;
      for (const std::string& token : tokens) text += token;
      tokens = {text};
      return {};
    });
  } else if (type == "Strip") {
    BITLAB_TRY(const std::string character, character_at(tree, "content"));
    const auto start = id_of(at(tree, "start")), stop = id_of(at(tree, "stop"));
    if (!start || !stop) return corrupt_tokenizer("a start and a stop of Strip");
    steps.push_back(strip(character, static_cast<size_t>(*start), static_cast<size_t>(*stop)));
  } else {
    return unsupported_tokenizer("decoder", type);
  }
  return {};
}

}  // namespace

Result<std::vector<Decoder>> read_decoders(const Tree& tree) {
  std::vector<Decoder> steps;
  if (!tree.is_null())
    BITLAB_RETURN_IF_ERROR(for_each_part(tree, "decoders", [&](const Tree& part) { return add_decoder(steps, part); }));
  return steps;
}

std::string spelled_bytes(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) out += spellings()[static_cast<uint8_t>(b)];
  return out;
}

void append_spelled(std::string& bytes, std::string_view text) {
  static const auto values = [] {
    std::array<int16_t, 0x144> list;  // the last of them is U+0143
    list.fill(-1);
    for (size_t b = 0; b < spellings().size(); ++b) {
      size_t place = 0;
      list[next_character(spellings()[b], place)] = static_cast<int16_t>(b);
    }
    return list;
  }();
  const size_t before = bytes.size();
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    if (c >= values.size() || values[c] < 0) {
      bytes.resize(before);
      bytes += text;
      return;
    }
    bytes += static_cast<char>(values[c]);
  }
}

}  // namespace bitlab::data
