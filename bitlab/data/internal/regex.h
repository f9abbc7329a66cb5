// Regular expressions of tokenizers: Oniguruma's, which `tokenizers` has, run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

struct pcre2_real_code_8;

namespace bitlab::data {

struct Span {
  size_t begin = 0, end = 0;  // bytes
};

// Untrusted: a match takes at most 10^7 steps and 64 MiB. From any number of threads at once.
class Pattern {
 public:
  // Letters, numbers, spaces and words are Unicode's, as of PCRE2's version; without regard to case a letter is one letter, so that no ss is a sharp s. Error: Unsupported
  // (what PCRE2 does not know, or means otherwise: negated classes within classes, flags other than i, less usual escapes).
  static Result<Pattern> regex(std::string_view text);
  // `text` itself. Error: Corrupt (an empty one).
  static Result<Pattern> literal(std::string_view text);
  // What readers see as one character (Unicode's extended grapheme clusters).
  static Result<Pattern> graphemes();

  // All matches from the left. An empty one counts where no match ends. Errors: Corrupt (no UTF-8), Unsupported (a match beyond the limits).
  Result<std::vector<Span>> matches(std::string_view text) const;

 private:
  static Result<Pattern> compile(std::string_view text, const std::string& translated);
  std::string text_;
  std::shared_ptr<pcre2_real_code_8> code_;  // null: a literal
};

}  // namespace bitlab::data
