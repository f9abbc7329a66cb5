// The trainer's side of sinks: events of what it reports.
#pragma once

#include <chrono>

#include "bitlab/train/sink.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {

class EventStream {
 public:
  explicit EventStream(std::vector<std::shared_ptr<Sink>> sinks) : sinks_(std::move(sinks)) {}
  // Errors of all: those of the sinks.
  Status begin(const EventPosition& position);
  Status step(const StepReport& report);
  Status evaluation(const EvaluationReport& report);
  Status epoch(const EpochReport& report);
  Status end(const TrainingReport& report);

 private:
  using Clock = std::chrono::steady_clock;
  Status write(Event event) const;
  double seconds() const;

  std::vector<std::shared_ptr<Sink>> sinks_;
  EventPosition position_;
  Clock::time_point begin_{}, last_{};
  double step_seconds_ = 0;  // smoothed
  Event place_;              // of the last event, without numbers
};

}  // namespace bitlab::train
