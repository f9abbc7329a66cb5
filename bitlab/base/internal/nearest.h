// "Did you mean ...?"
#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace bitlab {

// The known name that needs the fewest letters inserted, removed or replaced to become `name` (Levenshtein's distance; the first of equals);
// null where all need more than `at_most`.
const std::string* nearest(std::string_view name, std::span<const std::string> known,
                           size_t at_most = std::numeric_limits<size_t>::max());

}  // namespace bitlab
