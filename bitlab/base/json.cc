#include "bitlab/base/internal/json.h"

#include <algorithm>
#include <limits>
#include <vector>

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

// Builds a tree from what the parser reads. The library's own builder comes twice with its parser, the second time for a callback.
class TreeBuilder {  // NOLINT(bugprone-exception-escape): a Json is moved without one
 public:
  Json take() { return std::move(root_); }

  bool null() { return put(nullptr), true; }
  bool boolean(bool value) { return put(value), true; }
  bool number_integer(int64_t value) { return put(value), true; }
  bool number_unsigned(uint64_t value) { return put(value), true; }
  bool number_float(double value, const std::string&) { return put(value), true; }
  bool string(std::string& value) { return put(std::move(value)), true; }
  bool binary(Json::binary_t&) { return false; }  // not of JSON
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return open_.pop_back(), true; }
  bool end_array() { return open_.pop_back(), true; }
  bool key(const std::string& key) { return member_ = &(*open_.back())[key], true; }
  bool parse_error(size_t, const std::string&, const Json::exception&) { return false; }

 private:
  bool open(Json list) { return open_.push_back(put(std::move(list))), true; }
  Json* put(Json value) {
    if (!open_.empty() && open_.back()->is_array()) return open_.back()->push_back(std::move(value)), &open_.back()->back();
    Json* place = open_.empty() ? &root_ : member_;
    *place = std::move(value);
    return place;
  }

  Json root_;
  std::vector<Json*> open_;  // the lists and objects around the next value
  Json* member_ = nullptr;   // of the innermost object: what the next value is
};

constexpr size_t kExcerpt = 80;

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  if (const int depth = depth_of(text); depth > kMaxJsonDepth)
    return make_error(ErrorCode::kCorrupt, "[{}] JSON nested at most {} deep, got {}", where, kMaxJsonDepth, depth);
  TreeBuilder builder;
  if (!Json::sax_parse(text, &builder))
    return make_error(ErrorCode::kCorrupt, "[{}] JSON, got {}", where, json_excerpt(std::string(text.substr(0, kExcerpt))));
  return builder.take();
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
