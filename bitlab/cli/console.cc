#include "bitlab/cli/console.h"

#include <cstdio>
#include <string>
#include <unistd.h>

#include <fmt/core.h>

namespace bitlab::cli {
namespace {

constexpr std::chrono::milliseconds kPlainInterval = std::chrono::minutes(1);

}  // namespace

ProgressBar::ProgressBar() : enabled_(isatty(STDERR_FILENO) != 0) {
  if (!enabled_) next_ = std::chrono::steady_clock::now() + kPlainInterval;
}

void ProgressBar::show(int64_t done, int64_t total, const std::string& text) {
  constexpr int64_t kWidth = 30;
  constexpr auto kInterval = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_ && (done < total || !enabled_)) return;
  next_ = now + (enabled_ ? kInterval : kPlainInterval);
  const auto filled = static_cast<size_t>(total == 0 ? 0 : kWidth * done / total);
  if (enabled_)
    fmt::print(stderr, "\r\033[K[{}{}] {}/{} {}", std::string(filled, '#'), std::string(kWidth - filled, '.'), done, total,
               text);
  else
    fmt::print(stderr, "{}/{} {}\n", done, total, text);
  std::fflush(stderr);
  shown_ = enabled_;
}

void ProgressBar::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace bitlab::cli
