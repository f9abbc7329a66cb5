#include "bitlab/data/internal/unicode.h"

#include <algorithm>
#include <array>
#include <span>
#include <unordered_map>

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

#include "bitlab/data/internal/unicode_tables.inc"

bool is_in(std::span<const Range> ranges, char32_t c) {
  const auto behind =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t v, const Range& r) { return v < r.first; });
  return behind != ranges.begin() && c <= (behind - 1)->last;
}

const std::unordered_map<char32_t, std::u32string_view>& base_table() {
  static const auto table = [] {
    std::unordered_map<char32_t, std::u32string_view> map;
    for (size_t begin = 0; begin < kBases.size();) {
      const size_t end = kBases.find(U' ', begin);
      map.emplace(kBases[begin], kBases.substr(begin + 1, end - begin - 1));
      begin = end + 1;
    }
    return map;
  }();
  return table;
}

// Syllables of Hangul decompose into two or three letters (The Unicode Standard, section 3.12).
bool append_hangul(std::u32string& out, char32_t c) {
  constexpr char32_t kFirst = 0xAC00, kLast = 0xD7A3, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
  constexpr char32_t kVowels = 21, kTails = 28;
  if (c < kFirst || c > kLast) return false;
  const char32_t index = c - kFirst;
  out += kLead + index / (kVowels * kTails);
  out += kVowel + index % (kVowels * kTails) / kTails;
  if (index % kTails != 0) out += kTail + index % kTails;
  return true;
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

std::u32string without_accents(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text) {
    if (is_mark(c) || append_hangul(out, c)) continue;
    const auto base = base_table().find(c);
    if (base == base_table().end())
      out += c;
    else
      out += base->second;
  }
  return out;
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
