#include "bitlab/config/path_pattern.h"

#include <fnmatch.h>
#include <regex>

namespace bitlab::config {
namespace {

bool is_regex(const std::string& pattern) { return pattern.size() >= 2 && pattern.front() == '/' && pattern.back() == '/'; }

std::regex regex_of(const std::string& pattern) { return std::regex(pattern.substr(1, pattern.size() - 2)); }

}  // namespace

Status check_path_pattern(const std::string& pattern) {
  if (!is_regex(pattern)) return {};
  try {
    regex_of(pattern);
  } catch (const std::regex_error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[config] a regular expression ({}), got '{}'", error.what(), pattern);
  }
  return {};
}

bool matches_path(const std::string& pattern, const std::string& path) {
  if (pattern.empty()) return true;
  if (is_regex(pattern)) return std::regex_search(path, regex_of(pattern));
  return fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}

}  // namespace bitlab::config
