#include "bitlab/train/internal/phase_clock.h"

namespace bitlab::train {

void PhaseClock::start() {
  if (has_events()) return mark(nullptr);
  since_ = Clock::now();
}

void PhaseClock::charge(double& seconds) {
  if (has_events()) return mark(&seconds);
  const auto now = Clock::now();
  seconds += std::chrono::duration<double>(now - since_).count();
  since_ = now;
}

void PhaseClock::mark(double* seconds) {
  if (unused_.empty()) unused_.emplace_back(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
  marks_.push_back({std::move(unused_.back()), seconds});
  unused_.pop_back();
  marks_.back().event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  add_passed();
}

void PhaseClock::add_passed() {
  for (; marks_.size() > 1 && marks_[1].event.query(); marks_.pop_front()) {
    constexpr double kMilliseconds = 1e-3;
    if (double* const seconds = marks_[1].seconds; seconds != nullptr)
      *seconds += kMilliseconds * marks_[0].event.elapsedTime(marks_[1].event);
    unused_.push_back(std::move(marks_.front().event));
  }
}

void PhaseClock::settle() {
  if (marks_.size() < 2) return;
  marks_.back().event.synchronize();
  add_passed();
}

}  // namespace bitlab::train
