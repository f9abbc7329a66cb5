// Regular expressions, and forms of characters: what `tokenizers` answers is written out; python/tests/test_tokenizers.py compares with it at length.
#include "bitlab/data/internal/regex.h"

#include <gtest/gtest.h>

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

std::vector<std::string> found(const char* pattern, std::string_view text) {
  const auto regex = Pattern::regex(pattern);
  EXPECT_TRUE(regex.ok()) << (regex.ok() ? "" : regex.error().message);
  std::vector<std::string> list;
  if (!regex.ok()) return list;
  for (const Span& span : regex->matches(text).value()) list.emplace_back(text.substr(span.begin, span.end - span.begin));
  return list;
}

using Texts = std::vector<std::string>;

TEST(Pattern, MeansWhatOnigurumaMeans) {
  EXPECT_EQ(found("\\d{2}+", "12345"), (Texts{"1234"})) << "a plus repeats the interval";
  EXPECT_EQ(found("(?:ab){1,2}+", "ababab ab"), (Texts{"ababab", "ab"}));
  EXPECT_EQ(found("[a\\]]{2}?", "a]a"), (Texts{"a]", ""})) << "so does a question mark behind one number";
  EXPECT_EQ(found("a{,2}b", "aaab"), (Texts{"aab"}));
  EXPECT_EQ(found("a{x", "a{x"), (Texts{"a{x"}));
  EXPECT_EQ(found("a++a|b", "aab"), (Texts{"b"})) << "a plus behind a plus gives nothing back";
  EXPECT_EQ(found("^b$", "a\nb\nc"), (Texts{"b"})) << "lines";
  EXPECT_EQ(found("a.", "a\na\r"), (Texts{"a\r"}));
  EXPECT_EQ(found("\\w+", "n\u0303\u0968_\u00b2 \u2460\u24b6"), (Texts{"n\u0303\u0968_\u00b2", "\u24b6"}));
  EXPECT_EQ(found("\\s+", "a\u180e\u00a0\u2003b"), (Texts{"\u00a0\u2003"}));
  EXPECT_EQ(found("[\\s\\d]+|\\S", "1 \u3000x"), (Texts{"1 \u3000", "x"}));
  EXPECT_EQ(found("\\bb", "ab b \u0301b"), (Texts{"b"})) << "a mark is part of a word";
  EXPECT_EQ(found("x*", "axb"), (Texts{"", "x", ""})) << "an empty match behind another does not count";
  EXPECT_EQ(found("(?i:'S|k)", "'s 'S 'ſ \u212a"), (Texts{"'s", "'S", "'ſ", "\u212a"}));
  EXPECT_EQ(found("\\u0041\\x{1F600}\\x42\\v", "A\U0001F600B\v"), (Texts{"A\U0001F600B\v"}));
  EXPECT_EQ(found("[^(\\s|[.,[x]])]+", "ab|c.dx(e"), (Texts{"ab", "c", "d", "e"})) << "classes within a class";
  EXPECT_EQ(found("(?<=\u00e9)a", "a\u00e9a"), (Texts{"a"}));
}

TEST(Pattern, RefusesWhatMeansSomethingElse) {
  for (const char* pattern :
       {"[a[^b]]", "[a-[b]]",       "[[a]-b]", "[[a-]b]", "[[]a]", "[a&&b]", "[[:alpha:]]", "(?m:a)",   "(?x)a",   "(*FAIL)",
        "(?R)",    "(?|a)",         "\\h",     "\\Ka",    "\\C",   "\\R",    "\\X",         "\\Qa",     "[\\W]",   "\\xff",
        "\\pL",    "\\p{Nonsense}", "a**",     "(",       ")",     "[a",     "\\",          "(?<=a+)b", "a{99999}"})
    EXPECT_EQ(Pattern::regex(pattern).error().code, ErrorCode::kUnsupported) << pattern;
  EXPECT_EQ(Pattern::regex("[a&&b]").error().message,
            "[tokenizer] a regular expression that is known here, got '[a&&b]' (&& in a class)");
  EXPECT_EQ(Pattern::regex(std::string(70'000, 'a')).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(Pattern::regex(std::string(1'000, '(') + std::string(1'000, ')')).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(Pattern::literal("").error().code, ErrorCode::kCorrupt);
}

TEST(Pattern, StopsAtItsLimits) {
  const auto slow = Pattern::regex("(?:a+)+$").value().matches(std::string(64, 'a') + "b");
  EXPECT_EQ(slow.error().message, "[tokenizer] a regular expression that matches in 10000000 steps, got '(?:a+)+$'");
  EXPECT_EQ(slow.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(Pattern::regex("a").value().matches("a\xff").error().code, ErrorCode::kCorrupt);
  const std::string text(1'000'000, 'a');
  EXPECT_EQ(Pattern::regex("\\p{L}+|\\s+(?!\\S)").value().matches(text).value().size(), 1);
  EXPECT_EQ(Pattern::regex("\\s+(?!\\S)|\\s").value().matches(std::string(1'000'000, ' ') + "a").value().size(), 2);
  const auto deep = Pattern::regex("(?:a|b)*c|a").value().matches(text);
  if (!deep.ok()) {
    EXPECT_EQ(deep.error().code, ErrorCode::kUnsupported);
  }
}

// The Unicode Standard's examples (Annex 15), and what its rules leave open to mistakes.
TEST(NormalForms, AreThoseOfUnicode) {
  struct Case {
    std::u32string text, nfc, nfd, nfkc, nfkd;
  };
  const std::vector<Case> cases{
      {U"\u1e9b\u0323", U"\u1e9b\u0323", U"\u017f\u0323\u0307", U"\u1e69", U"s\u0323\u0307"},
      {U"\u212b\u00c5A\u030a", U"\u00c5\u00c5\u00c5", U"A\u030aA\u030aA\u030a", U"\u00c5\u00c5\u00c5",
       U"A\u030aA\u030aA\u030a"},
      {U"\ufb01\u2460\uff21 \u00a0", U"\ufb01\u2460\uff21 \u00a0", U"\ufb01\u2460\uff21 \u00a0", U"fi1A  ", U"fi1A  "},
      {U"\ud55c\uae00", U"\ud55c\uae00", U"\u1112\u1161\u11ab\u1100\u1173\u11af", U"\ud55c\uae00",
       U"\u1112\u1161\u11ab\u1100\u1173\u11af"},
      {U"a\u0301\u0328\u0301", U"\u0105\u0301\u0301", U"a\u0328\u0301\u0301", U"\u0105\u0301\u0301", U"a\u0328\u0301\u0301"},
      {U"\u0301a\u0305\u0301", U"\u0301a\u0305\u0301", U"\u0301a\u0305\u0301", U"\u0301a\u0305\u0301",
       U"\u0301a\u0305\u0301"},
      {U"\u0958\u2adc\u2a74\u0344", U"\u0915\u093c\u2add\u0338\u2a74\u0308\u0301",
       U"\u0915\u093c\u2add\u0338\u2a74\u0308\u0301", U"\u0915\u093c\u2add\u0338::=\u0308\u0301",
       U"\u0915\u093c\u2add\u0338::=\u0308\u0301"},
      {U"\u1100\u1161\u11a7\uac00\u11a8", U"\uac00\u11a7\uac01", U"\u1100\u1161\u11a7\u1100\u1161\u11a8",
       U"\uac00\u11a7\uac01", U"\u1100\u1161\u11a7\u1100\u1161\u11a8"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(to_utf8(normalized(c.text, NormalForm::kNfc)), to_utf8(c.nfc));
    EXPECT_EQ(to_utf8(normalized(c.text, NormalForm::kNfd)), to_utf8(c.nfd));
    EXPECT_EQ(to_utf8(normalized(c.text, NormalForm::kNfkc)), to_utf8(c.nfkc));
    EXPECT_EQ(to_utf8(normalized(c.text, NormalForm::kNfkd)), to_utf8(c.nfkd));
  }
}

}  // namespace
}  // namespace bitlab::data
