// A look at JSON text before a parser gets it.
#pragma once

#include <algorithm>
#include <string_view>

namespace bitlab {

// The deepest nesting of brackets and braces outside of strings. A parser's tree costs dozens of bytes for each level, so untrusted
// text is refused by its depth before it is parsed.
inline int json_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool inside_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside_string) {
      if (c == '\\') ++i;
      inside_string = c != '"';
    } else if (c == '"') {
      inside_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

inline constexpr int kMaxJsonDepth = 16;

}  // namespace bitlab
