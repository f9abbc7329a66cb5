#include "bitlab/base/log.h"

#include <mutex>
#include <utility>

namespace bitlab {
namespace {

std::mutex mutex;
LogSink& current_sink() {
  static LogSink sink;
  return sink;
}

}  // namespace

void set_log_sink(LogSink sink) {
  std::lock_guard lock(mutex);
  current_sink() = std::move(sink);
}

void log_message(LogLevel level, std::string_view message) {
  std::lock_guard lock(mutex);
  if (current_sink()) current_sink()(level, message);
}

}  // namespace bitlab
