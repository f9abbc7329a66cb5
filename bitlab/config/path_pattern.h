// Patterns of paths, by which rules choose layers and parameters: with * and ?, or between slashes a regular expression, which need not cover the
// whole path. An empty one fits every path.
#pragma once

#include <string>

#include "bitlab/base/result.h"

namespace bitlab::config {

// Error: InvalidArgument (a regular expression that is none).
Status check_path_pattern(const std::string& pattern);
// `pattern` is one that check_path_pattern() takes.
bool matches_path(const std::string& pattern, const std::string& path);

}  // namespace bitlab::config
