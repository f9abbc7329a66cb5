// Lists that a build is given as a text: BITLAB_ISA, BITLAB_OPS (cmake/options.cmake).
#pragma once

#include <string_view>

namespace bitlab {

// Whether a list of words with a space between has the word; one without words has every word.
constexpr bool is_listed(std::string_view list, std::string_view word) {
  if (list.empty()) return true;
  while (!list.empty()) {
    const std::string_view first = list.substr(0, list.find(' '));
    if (first == word) return true;
    list.remove_prefix(first.size() < list.size() ? first.size() + 1 : list.size());
  }
  return false;
}

}  // namespace bitlab
