// A progress bar that stays silent where nobody watches.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

namespace bitlab::cli {

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
