// A progress bar, and lines now and then where it would not be seen.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace bitlab::cli {

// One line on the terminal that is redrawn in place; where stderr is not a terminal, a plain line a minute.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar() { clear(); }
  void show(int64_t done, int64_t total, const std::string& text);
  void clear();

 private:
  bool enabled_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace bitlab::cli
