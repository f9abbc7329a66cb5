// JSON as a tree, of files that are not trusted. What reads and writes it is compiled once: it would cost each of its users 3 to 30 s.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "bitlab/base/result.h"

namespace bitlab {

using Json = nlohmann::ordered_json;

// A tree costs dozens of bytes for each level, so that text nested deeper is refused before it is parsed.
inline constexpr int kMaxJsonDepth = 16;

// Errors: Corrupt, "[<where>] ..."
Result<Json> parse_json(std::string_view text, std::string_view where);

// With line breaks if `indent` is not negative. Bytes that are not UTF-8 are replaced.
std::string json_text(const Json& json, int indent = -1);

// The beginning of its text, for messages.
std::string json_excerpt(const Json& json);

// An integer that int64_t holds.
bool is_int64(const Json& json);

}  // namespace bitlab
