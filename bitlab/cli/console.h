// Output for people: numbers with units, a table, a progress bar that stays silent where nobody watches.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitlab::cli {

std::string format_bytes(int64_t bytes);  // "107.6 KiB"

// Columns as wide as their cells, numbers to the right, everything else to the left; the first row is the heading.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

// One line on the terminal that is redrawn in place; nothing where stderr is not a terminal.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar() { clear(); }
  void show(int64_t done, int64_t total, std::string_view text);
  void clear();

 private:
  bool enabled_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace bitlab::cli
