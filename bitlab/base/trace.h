// Events with a duration, emitted by the runtime and the trainer and collected by whoever listens.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string_view>

namespace bitlab {

struct TraceEvent {
  std::string_view category;  // "step", "epoch"
  std::string_view name;      // valid during the call only
  int64_t begin_ns;           // std::chrono::steady_clock
  int64_t end_ns;
};

using TraceSink = std::function<void(const TraceEvent&)>;

// Emits one event for its scope; costs one test when nobody listens.
class TraceScope {
 public:
  TraceScope(const TraceSink& sink, std::string_view category, std::string_view name)
      : sink_(sink), category_(category), name_(name), begin_ns_(sink ? now_ns() : 0) {}
  ~TraceScope() {
    if (sink_) sink_({category_, name_, begin_ns_, now_ns()});
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  static int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  const TraceSink& sink_;
  std::string_view category_;
  std::string_view name_;
  int64_t begin_ns_;
};

}  // namespace bitlab
