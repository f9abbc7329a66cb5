// Where the time of training goes, part by part, without a wait for the device.
#pragma once

#include <chrono>
#include <deque>
#include <vector>

#include <c10/core/Event.h>

namespace bitlab::train {

// Adds up the time between marks. On a GPU, where work is queued, a mark is an event of the stream, whose time is read when the device has passed it: the
// times are those of the device, one part behind the other, and what it idles counts to the part that it waits for. Elsewhere they are the host's.
class PhaseClock {
 public:
  explicit PhaseClock(c10::Device device = c10::kCPU) : device_(device) {}

  // A mark; what came before it is nobody's.
  void start();
  // A mark, up to which the time since the last one belongs to `seconds`. It is added at once, by a later charge, or by settle(), before which `seconds` must
  // not go away.
  void charge(double& seconds);
  // Adds what is not added yet, for which it waits.
  void settle();

 private:
  using Clock = std::chrono::steady_clock;
  struct Mark {
    c10::Event event;
    double* seconds;  // null: a start
  };

  bool has_events() const { return device_.is_cuda(); }  // some other devices have none that know the time
  void mark(double* seconds);
  void add_passed();

  c10::Device device_;
  Clock::time_point since_{};
  std::deque<Mark> marks_;          // that the device may not have passed, behind one that it has
  std::vector<c10::Event> unused_;  // to be recorded again
};

}  // namespace bitlab::train
