#include "bitlab/cli/console.h"

#include <cstdio>
#include <string>
#include <unistd.h>

#include <fmt/core.h>

namespace bitlab::cli {

ProgressBar::ProgressBar() : enabled_(isatty(STDERR_FILENO) != 0) {}

void ProgressBar::show(int64_t done, int64_t total, std::string_view text) {
  constexpr int64_t kWidth = 30;
  constexpr auto kInterval = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || (now < next_ && done < total)) return;
  next_ = now + kInterval;
  const auto filled = static_cast<size_t>(total == 0 ? 0 : kWidth * done / total);
  fmt::print(stderr, "\r\033[K[{}{}] {}/{} {}", std::string(filled, '#'), std::string(kWidth - filled, '.'), done, total,
             text);
  std::fflush(stderr);
  shown_ = true;
}

void ProgressBar::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace bitlab::cli
