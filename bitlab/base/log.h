// The one way out for messages that are not errors. Without a sink they are dropped: a library does not print.
#pragma once

#include <functional>
#include <string_view>

#include <fmt/core.h>

namespace bitlab {

enum class LogLevel { kDebug, kInfo, kWarning };

using LogSink = std::function<void(LogLevel, std::string_view)>;

// Replaces the process-wide sink; an empty function drops messages. Safe to call from any thread.
void set_log_sink(LogSink sink);

void log_message(LogLevel level, std::string_view message);

template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_message(level, fmt::vformat(format, fmt::make_format_args(args...)));
}

}  // namespace bitlab
