#include "bitlab/base/internal/json.h"

#include <algorithm>
#include <limits>

namespace bitlab {
namespace {

// The deepest nesting of brackets and braces outside of strings.
int depth_of(std::string_view text) {
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

constexpr size_t kExcerpt = 80;

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  if (const int depth = depth_of(text); depth > kMaxJsonDepth)
    return make_error(ErrorCode::kCorrupt, "[{}] JSON nested at most {} deep, got {}", where, kMaxJsonDepth, depth);
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded())
    return make_error(ErrorCode::kCorrupt, "[{}] JSON, got {}", where, json_excerpt(std::string(text.substr(0, kExcerpt))));
  return json;
}

std::string json_text(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

std::string json_excerpt(const Json& json) {
  const std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= kExcerpt ? text : text.substr(0, kExcerpt) + "...";
}

bool is_int64(const Json& json) {
  return json.is_number_integer() &&
         (!json.is_number_unsigned() || json.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
}

}  // namespace bitlab
