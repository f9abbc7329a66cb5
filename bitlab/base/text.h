// Text for people: numbers with units, a table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitlab {

std::string format_bytes(int64_t bytes);  // "107.6 KiB"

// The text on one line of a terminal: control characters, which files may have in their names of things, become '?'.
std::string one_line(std::string_view text);

// "expected a" of "expected a\nraised from b": what an exception of LibTorch says, without its stack of calls.
std::string_view first_line(std::string_view text);

// Columns as wide as their cells, numbers to the right, everything else to the left; the first row is the heading.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace bitlab
