#include "bitlab/data/internal/regex.h"

#include <cctype>
#include <optional>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
namespace {

constexpr uint32_t kMatchSteps = 10'000'000, kMatchKib = 64 << 10;
constexpr size_t kLongestPattern = 1 << 16;

// Oniguruma's \s and \w, as the inside of a class. PCRE2's \s has U+180E; its \w lacks marks and has numbers that are no digits, of which Oniguruma's has those
// of Latin-1 alone.
constexpr std::string_view kSpaceClass =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWordClass =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

Error unsupported_pattern(std::string_view pattern, std::string_view what) {
  return make_error(ErrorCode::kUnsupported, "[tokenizer] a regular expression that is known here, got '{}' ({})", pattern,
                    what);
}

// An expression in PCRE2's words, where both mean the same.
class Translation {
 public:
  explicit Translation(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    if (pattern_.size() > kLongestPattern) return unsupported_pattern(pattern_.substr(0, 32), "longer than 65536 bytes");
    if (pattern_.starts_with("(?i)")) at_ = 4, out_ = "(?i)";
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '(') {
        BITLAB_RETURN_IF_ERROR(group());
      } else if (c == ')') {
        atom_ = groups_.empty() ? out_.size() : groups_.back();
        if (!groups_.empty()) groups_.pop_back();
        out_ += pattern_[at_++];
      } else if (c == '*' || c == '+' || c == '?') {
        out_ += pattern_[at_++];
        if (rest().starts_with('?') || rest().starts_with('+')) out_ += pattern_[at_++];
      } else if (c == '{') {
        interval();
      } else {
        atom_ = out_.size();
        if (c == '[')
          BITLAB_RETURN_IF_ERROR(bracket());
        else if (c == '\\')
          BITLAB_RETURN_IF_ERROR(escape(false));
        else
          copy_character();
      }
    }
    return out_;
  }

 private:
  std::string_view rest() const { return pattern_.substr(at_); }

  void copy_character() {
    const size_t end = character_end(pattern_, at_);
    out_ += pattern_.substr(at_, end - at_);
    at_ = end;
  }

  Status group() {
    groups_.push_back(out_.size());
    if (rest().starts_with("(*")) return unsupported_pattern(pattern_, "(*");
    if (!rest().starts_with("(?")) return out_ += pattern_[at_++], Status();
    for (const std::string_view head : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (!rest().starts_with(head)) continue;
      out_ += head, at_ += head.size();
      return {};
    }
    return unsupported_pattern(pattern_, rest().substr(0, 4));
  }

  // {n}, {n,}, {n,m} or {,m}; anything else is a brace. A plus behind it repeats the whole, as does a question mark behind {n}; in PCRE2 they would change how it
  // matches.
  void interval() {
    size_t end = at_ + 1;
    const auto number = [&] {
      const size_t begin = end;
      while (end < pattern_.size() && pattern_[end] >= '0' && pattern_[end] <= '9') ++end;
      return std::string(pattern_.substr(begin, end - begin));
    };
    const std::string least = number();
    const bool has_comma = end < pattern_.size() && pattern_[end] == ',';
    if (has_comma) ++end;
    const std::string most = has_comma ? number() : "";
    if (end >= pattern_.size() || pattern_[end] != '}' || (least.empty() && most.empty())) {
      atom_ = out_.size();
      out_ += "\\{", ++at_;
      return;
    }
    at_ = end + 1;
    out_ += "{" + (least.empty() ? "0" : least) + (has_comma ? "," + most : "") + "}";
    if (rest().starts_with('+') || (rest().starts_with('?') && !has_comma)) {
      out_.insert(atom_, "(?:");
      out_ += ")", out_ += pattern_[at_++];
    } else if (rest().starts_with('?')) {
      out_ += pattern_[at_++];
    }
  }

  // A class within a class adds what it has.
  Status bracket() {
    out_ += pattern_[at_++];
    if (rest().starts_with('^')) out_ += pattern_[at_++];
    int depth = 0;
    for (bool is_first = true; at_ < pattern_.size(); is_first = false) {
      const char c = pattern_[at_];
      if (c == '[') {
        // A hyphen beside it would become one between two characters.
        if (at_ + 1 < pattern_.size() && std::string_view("^:-").find(pattern_[at_ + 1]) == std::string_view::npos &&
            out_.back() != '-') {
          ++depth, ++at_;
          if (rest().starts_with(']')) return unsupported_pattern(pattern_, "[]");
          continue;
        }
        return unsupported_pattern(pattern_, "such a class within a class");
      }
      if (c == ']' && depth > 0) {
        --depth, ++at_;
        if (out_.back() == '-' || rest().starts_with('-')) return unsupported_pattern(pattern_, "a hyphen beside a class");
        continue;
      }
      if (c == ']' && !is_first) return out_ += pattern_[at_++], Status();
      if (rest().starts_with("&&")) return unsupported_pattern(pattern_, "&& in a class");
      if (c == '\\')
        BITLAB_RETURN_IF_ERROR(escape(true));
      else
        copy_character();
    }
    return unsupported_pattern(pattern_, "a class without an end");
  }

  Status escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) return unsupported_pattern(pattern_, "a backslash at the end");
    const char c = pattern_[at_ + 1];
    const auto put = [&](std::string_view text, size_t length = 2) {
      out_ += text, at_ += length;
      return Status();
    };
    const auto class_of = [&](std::string_view open, std::string_view inside) {
      return put(fmt::format("{}{}]", open, inside));
    };
    if (!std::isalnum(static_cast<unsigned char>(c))) {
      ++at_;
      if (static_cast<uint8_t>(c) < 0x80) out_ += '\\';
      return copy_character(), Status();
    }
    if (c == 's') return in_class ? put(kSpaceClass) : class_of("[", kSpaceClass);
    if (c == 'w') return in_class ? put(kWordClass) : class_of("[", kWordClass);
    if (c == 'v') return put("\\x0b");
    if (std::string_view("dDnrtfae").find(c) != std::string_view::npos) return put(pattern_.substr(at_, 2));
    if (c == 'p' || c == 'P') {
      const size_t end = pattern_.find('}', at_);
      if (at_ + 2 < pattern_.size() && pattern_[at_ + 2] == '{' && end != std::string_view::npos)
        return put(pattern_.substr(at_, end + 1 - at_), end + 1 - at_);
    }
    if (c == 'x' || c == 'u') return code_point();
    if (!in_class) {
      if (c == 'S') return class_of("[^", kSpaceClass);
      if (c == 'W') return class_of("[^", kWordClass);
      if (c == 'A' || c == 'z' || c == 'Z' || (c >= '1' && c <= '9')) return put(pattern_.substr(at_, 2));
      if (c == 'b') return put(fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kWordClass));
      if (c == 'B') return put(fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", kWordClass));
    }
    return unsupported_pattern(pattern_, pattern_.substr(at_, 2));
  }

  // \xHH below 80, \x{H...} or \uHHHH.
  Status code_point() {
    const bool has_braces = pattern_[at_ + 1] == 'x' && at_ + 2 < pattern_.size() && pattern_[at_ + 2] == '{';
    const size_t begin = at_ + (has_braces ? 3 : 2), longest = has_braces ? 6 : pattern_[at_ + 1] == 'x' ? 2 : 4;
    size_t end = begin;
    while (end < pattern_.size() && end < begin + longest && std::isxdigit(static_cast<unsigned char>(pattern_[end]))) ++end;
    const std::string_view digits = pattern_.substr(begin, end - begin);
    const bool ends =
        has_braces ? !digits.empty() && end < pattern_.size() && pattern_[end] == '}' : digits.size() == longest;
    if (!ends || (longest == 2 && digits[0] > '7')) return unsupported_pattern(pattern_, pattern_.substr(at_, 6));
    out_ += fmt::format("\\x{{{}}}", digits);
    at_ = end + (has_braces ? 1 : 0);
    return {};
  }

  std::string_view pattern_;
  std::string out_;
  size_t at_ = 0;
  size_t atom_ = 0;             // where in out_ what a quantifier repeats begins
  std::vector<size_t> groups_;  // where in out_ the open groups begin
};

}  // namespace

Result<Pattern> Pattern::compile(std::string_view text, const std::string& translated) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) return make_error(ErrorCode::kOutOfMemory, "[tokenizer] memory for a regular expression, got none");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  // Oniguruma's ^ and $ are those of lines.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  size_t place = 0;
  Pattern pattern;
  pattern.text_ = text;
  pattern.code_ = {pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &error,
                                 &place, context.get()),
                   pcre2_code_free};
  if (!pattern.code_) {
    std::string message(128, '\0');
    const int length = pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message.data()), message.size());
    return unsupported_pattern(text, message.substr(0, length > 0 ? static_cast<size_t>(length) : 0));
  }
  pcre2_jit_compile(pattern.code_.get(), PCRE2_JIT_COMPLETE);  // where a system has none, the interpreter runs
  return pattern;
}

Result<Pattern> Pattern::regex(std::string_view text) {
  BITLAB_TRY(const std::string translated, Translation(text).run());
  return compile(text, translated);
}

Result<Pattern> Pattern::literal(std::string_view text) {
  if (text.empty()) return make_error(ErrorCode::kCorrupt, "[tokenizer] a pattern of characters, got an empty one");
  Pattern pattern;
  pattern.text_ = text;
  return pattern;
}

Result<Pattern> Pattern::graphemes() { return compile("\\X", "\\X"); }

Result<std::vector<Span>> Pattern::matches(std::string_view text) const {
  std::vector<Span> found;
  if (!code_) {
    for (size_t at = text.find(text_); at != std::string_view::npos; at = text.find(text_, at + text_.size()))
      found.push_back({at, at + text_.size()});
    return found;
  }
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr),
                                                                                 pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (!data || !context) return make_error(ErrorCode::kOutOfMemory, "[tokenizer] memory for a match, got none");
  pcre2_set_match_limit(context.get(), kMatchSteps);
  pcre2_set_heap_limit(context.get(), kMatchKib);
  uint32_t options = 0;  // the first time the text is checked, too
  std::optional<size_t> last;
  for (size_t at = 0; at <= text.size();) {
    const auto match = [&](uint32_t more) {
      return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, options | more, data.get(),
                         context.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result <= PCRE2_ERROR_UTF8_ERR1 && result >= PCRE2_ERROR_UTF8_ERR21)
      return make_error(ErrorCode::kCorrupt, "[text] UTF-8, got none at byte {}", pcre2_get_startchar(data.get()));
    if (result < 0)
      return make_error(ErrorCode::kUnsupported, "[tokenizer] a regular expression that matches in {} steps, got '{}'",
                        kMatchSteps, text_);
    options = PCRE2_NO_UTF_CHECK;
    const size_t* const place = pcre2_get_ovector_pointer(data.get());
    if (place[0] == place[1] && last == place[1]) {
      at = at < text.size() ? character_end(text, at) : at + 1;
      continue;
    }
    found.push_back({place[0], place[1]});
    last = at = place[1];
  }
  return found;
}

}  // namespace bitlab::data
