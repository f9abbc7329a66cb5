// Numbers that are found in several recordings.
#pragma once

#include <algorithm>
#include <functional>

namespace bitlab::deploy {

// Whether they are one number.
template <class Found>
bool is_one_number(const Found& found) {
  return std::adjacent_find(found.begin(), found.end(), std::not_equal_to<>()) == found.end();
}

}  // namespace bitlab::deploy
