#include "bitlab/data/internal/unicode.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <vector>

namespace bitlab::data {
namespace {

struct Range {
  char32_t first, last;
};
struct LowerRule {
  char32_t first, last;
  uint32_t stride;
  int32_t delta;
};
struct CombiningClass {
  char32_t first, last;
  uint8_t number;
};

#include "bitlab/data/internal/unicode_tables.inc"

bool is_in(std::span<const Range> ranges, char32_t c) {
  const auto behind =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t v, const Range& r) { return v < r.first; });
  return behind != ranges.begin() && c <= (behind - 1)->last;
}

// The entries of a table of texts, each of which begins with its key of `size` characters; in the order of the keys.
std::vector<std::u32string_view> entries(std::u32string_view table, size_t size) {
  std::vector<std::u32string_view> list;
  for (size_t begin = 0; begin < table.size();) {
    const size_t end = table.find(U'\uffff', begin);
    list.push_back(table.substr(begin, end - begin));
    begin = end + 1;
  }
  std::sort(list.begin(), list.end(), [size](auto a, auto b) { return a.substr(0, size) < b.substr(0, size); });
  return list;
}

// What stands behind the key, empty where there is none.
std::u32string_view find_entry(const std::vector<std::u32string_view>& list, std::u32string_view key) {
  const auto found =
      std::lower_bound(list.begin(), list.end(), key, [](auto entry, auto k) { return entry.substr(0, k.size()) < k; });
  return found != list.end() && found->starts_with(key) ? found->substr(key.size()) : std::u32string_view();
}

uint8_t combining_class(char32_t c) {
  const auto* const behind = std::upper_bound(std::begin(kClasses), std::end(kClasses), c,
                                              [](char32_t v, const CombiningClass& r) { return v < r.first; });
  return behind != std::begin(kClasses) && c <= (behind - 1)->last ? (behind - 1)->number : 0;
}

constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

// Syllables of Hangul decompose into two or three letters (The Unicode Standard, section 3.12).
bool append_hangul(std::u32string& out, char32_t c) {
  if (c < kSyllable || c >= kSyllable + kSyllables) return false;
  const char32_t index = c - kSyllable;
  out.push_back(kLead + index / (kVowels * kTails));
  out.push_back(kVowel + index % (kVowels * kTails) / kTails);
  if (index % kTails != 0) out.push_back(kTail + index % kTails);
  return true;
}

std::optional<char32_t> composed(char32_t first, char32_t second) {
  if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels)
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
  if (first >= kSyllable && first < kSyllable + kSyllables && (first - kSyllable) % kTails == 0 && second > kTail &&
      second < kTail + kTails)
    return first + (second - kTail);
  static const auto table = entries(kComposed, 2);
  const char32_t pair[]{first, second};
  const std::u32string_view one = find_entry(table, {pair, 2});
  return one.empty() ? std::nullopt : std::optional(one[0]);
}

std::u32string decomposed(std::u32string_view text, bool is_compatible) {
  static const auto canonical = entries(kCanonical, 1), compatible = entries(kCompatible, 1);
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t& c : text) {
    if (c < 0x80) {
      out += c;
      continue;
    }
    if (append_hangul(out, c)) continue;
    std::u32string_view parts = is_compatible ? find_entry(compatible, {&c, 1}) : std::u32string_view();
    if (parts.empty()) parts = find_entry(canonical, {&c, 1});
    out += parts.empty() ? std::u32string_view(&c, 1) : parts;
  }
  // Marks behind one character stand in the order of their classes.
  for (size_t begin = 0; begin < out.size();) {
    size_t end = begin;
    while (end < out.size() && combining_class(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(begin), out.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    begin = end + 1;
  }
  return out;
}

// The text, decomposed, with characters joined to the last one of class 0 where nothing of their class or a higher one stands between.
std::u32string recomposed(std::u32string_view text) {
  std::u32string out;
  size_t starter = std::u32string::npos;
  uint8_t last = 0;  // the class of what was put out last
  for (const char32_t c : text) {
    const uint8_t number = combining_class(c);
    if (starter != std::u32string::npos && (starter + 1 == out.size() || last < number)) {
      if (const auto one = composed(out[starter], c)) {
        out[starter] = *one;
        continue;
      }
    }
    if (number == 0) starter = out.size();
    last = number;
    out += c;
  }
  return out;
}

// How many bytes follow a first one; -1: it is none.
int following(uint8_t first) {
  if (first < 0x80) return 0;
  if (first >= 0xC2 && first < 0xE0) return 1;
  if (first >= 0xE0 && first < 0xF0) return 2;
  return first >= 0xF0 && first < 0xF5 ? 3 : -1;
}

}  // namespace

bool is_letter(char32_t c) { return is_in(kLetters, c); }
bool is_number(char32_t c) { return is_in(kNumbers, c); }
bool is_punctuation(char32_t c) { return is_in(kPunctuation, c); }
bool is_mark(char32_t c) { return is_in(kMarks, c); }
bool is_combining(char32_t c) { return is_in(kMarks, c) || is_in(kSpacingMarks, c); }
bool is_word(char32_t c) { return is_letter(c) || is_combining(c) || is_in(kWordParts, c); }
bool is_control(char32_t c) { return is_in(kControls, c); }

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::u32string lower(std::u32string_view text) {
  constexpr char32_t kDottedI = 0x130, kDotAbove = 0x307;  // the one character whose lower form has two
  std::u32string out;
  for (const char32_t c : text) {
    if (c == kDottedI) {
      out += {U'i', kDotAbove};
      continue;
    }
    const auto rule = std::find_if(std::begin(kLower), std::end(kLower), [c](const LowerRule& r) {
      return c >= r.first && c <= r.last && (c - r.first) % r.stride == 0;
    });
    out += rule == std::end(kLower) ? c : static_cast<char32_t>(static_cast<int32_t>(c) + rule->delta);
  }
  return out;
}

std::u32string normalized(std::u32string_view text, NormalForm form) {
  const bool is_compatible = form == NormalForm::kNfkd || form == NormalForm::kNfkc;
  std::u32string out = decomposed(text, is_compatible);
  return form == NormalForm::kNfc || form == NormalForm::kNfkc ? recomposed(out) : out;
}

char32_t next_character(std::string_view text, size_t& at) {
  const auto first = static_cast<uint8_t>(text[at++]);
  const int more = std::max(following(first), 0);
  char32_t c = more == 0 ? first : first & (0x3FU >> more);
  for (int k = 0; k < more; ++k) c = c << 6 | (static_cast<uint8_t>(text[at++]) & 0x3FU);
  return c;
}

size_t character_end(std::string_view text, size_t begin) {
  size_t end = begin + 1;
  while (end < text.size() && continues_character(text[end])) ++end;
  return end;
}

Result<std::u32string> from_utf8(std::string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i]);
    const int followers = following(first), more = std::max(followers, 0);
    bool valid = followers >= 0 && i + static_cast<size_t>(more) < text.size();
    char32_t c = more == 0 ? first : first & (0x3FU >> more);
    for (int k = 1; valid && k <= more; ++k) {
      const char next = text[i + static_cast<size_t>(k)];
      valid = continues_character(next);
      c = c << 6 | (static_cast<uint8_t>(next) & 0x3FU);
    }
    constexpr std::array<char32_t, 4> kLeast{0, 0x80, 0x800, 0x10000};
    if (!valid || c < kLeast[static_cast<size_t>(more)] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
      return make_error(ErrorCode::kCorrupt, "[text] UTF-8, got none at byte {}", i);
    out += c;
    i += static_cast<size_t>(more) + 1;
  }
  return out;
}

void append_utf8(std::string& text, char32_t c) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xC0 | c >> 6), tail(0);
  } else if (c < 0x10000) {
    text += static_cast<char>(0xE0 | c >> 12), tail(6), tail(0);
  } else {
    text += static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0);
  }
}

std::string to_utf8(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) append_utf8(out, c);
  return out;
}

}  // namespace bitlab::data
