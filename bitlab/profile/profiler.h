// Times of a session's steps beside what they compute and move: which node takes how long, and how near that is to what the machine can do.
//
//   BitProfiler profiler;
//   auto session = runtime::Session::create(model, {.threads = 2, .trace = profiler.sink()}).value();
//   for (int i = 0; i < 20; ++i) session->run(inputs).value();
//   std::cout << profile(profiler, *session).value().table();
//
// A session without a trace reads no clock, and one with it computes the same bits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bitlab/base/trace.h"
#include "bitlab/profile/memory.h"
#include "bitlab/profile/roofs.h"
#include "bitlab/runtime/session.h"

namespace bitlab::profile {

struct Event {
  std::string category, name;
  int64_t begin_ns = 0, end_ns = 0;  // as in base/trace.h
  double seconds() const { return static_cast<double>(end_ns - begin_ns) * 1e-9; }
};

// Of all calls of one name.
struct Times {
  int64_t calls = 0;
  double seconds = 0, median_seconds = 0, least_seconds = 0;  // of all calls together, and of one
};
Times times_of(std::vector<double> seconds);  // of each call

// Collects the events of whatever emits them, one thread at a time: a session's steps and runs, a trainer's epochs.
class BitProfiler {
 public:
  // The profiler must outlive what it is given to.
  TraceSink sink();
  void clear() { events_.clear(); }
  const std::vector<Event>& events() const { return events_; }
  Times times(std::string_view category, std::string_view name) const;

 private:
  std::vector<Event> events_;
};

// What a layer has besides in training (train/profiler.h).
struct TrainingCost {
  Times forward{}, backward{};  // of a step, all calls of the layer together
  int64_t calls = 0;            // in a step
  int64_t parameter_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0;
  int64_t activation_bytes = 0;  // that its forward pass allocates and that live when the forward pass ends
};

// A step of the plan: one node, or several that run within one walk (runtime/plan.h). In training a layer.
struct StepProfile {
  std::string name{};  // of the first node; the path of a layer
  std::string ops{};   // "ternary_conv + batch_norm + relu"
  std::vector<std::string> nodes{};
  std::string kernels{};
  std::string output{};  // "[1, 20, 24, 24]"
  Times times{};
  double share = 0;  // of the time of all steps
  StepCost cost{};   // of a call
  // roofs.seconds(cost) / median time: 1 where the step is as fast as the machine can compute its products or move its bytes, whichever takes
  // longer. 0 without roofs.
  double roof_share = 0;
  std::optional<TrainingCost> training{};
};

// A part of a training step: "data", "forward", "backward", "optimizer".
struct PhaseProfile {
  std::string name{};
  Times times{};
  double share = 0;  // of the steps
};

struct Profile {
  std::string model{};  // what the caller calls it; in the heading
  std::string cpu{};
  std::string device = "cpu";  // or "cuda:0", which the host waits for behind each step
  int threads = 1;
  std::vector<std::pair<std::string, int64_t>> sizes{};  // of the program's symbols
  Times runs{};                        // whole runs: the steps, and inputs and outputs copied; in training, steps of it
  std::vector<StepProfile> steps{};    // in the order of the plan, or in which layers were called first
  std::vector<PhaseProfile> phases{};  // of training alone
  std::optional<Roofs> roofs{};
  MemoryTracker memory{};
  std::vector<Event> events{};

  StepCost total() const;  // of a run
  // Sets each step's roof_share.
  void set_roofs(const Roofs& measured);

  bool is_training() const { return !phases.empty(); }

  std::string table() const;  // steps by time, and a line each on memory and roofs
  std::string json() const;   // all of it but the events
  // The JSON that chrome://tracing and ui.perfetto.dev show: an event for each step of each run, and the bytes that live during it.
  std::string chrome_trace() const;
  // One page that needs nothing else: the roofline, bars of time, a table that sorts, memory step by step.
  std::string html() const;
};

// What a profiler has collected of a session whose runs had the sizes of the last one. Error: InvalidArgument (no run).
Result<Profile> profile(const BitProfiler& profiler, const runtime::Session& session);

struct ProfileOptions {
  int threads = 1;  // 0: all cores
  int64_t runs = 20;
  int64_t warmup = 3;       // runs before those
  bool roofs = true;        // whether they are measured, which takes part of a second; of the CPU alone
  std::string device = {};  // SessionOptions::device
};

// Runs the model on the inputs, each time from an empty state. Errors: InvalidArgument (below one run), those of Session.
Result<Profile> profile(const std::shared_ptr<const runtime::Model>& model, std::span<const runtime::TensorView> inputs,
                        const ProfileOptions& options = {});
Result<Profile> profile(const std::shared_ptr<const runtime::Model>& model, std::span<const runtime::NamedView> inputs,
                        const ProfileOptions& options = {});

// As above, of any events: an event each, and nothing about memory.
std::string chrome_trace(const std::vector<Event>& events);

}  // namespace bitlab::profile
