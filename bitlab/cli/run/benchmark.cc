// bitlab benchmark: how fast a deployed model is here, and where the time goes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/text.h"
#include "bitlab/cli/options.h"
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/run/inputs.h"
#include "bitlab/cli/run/sizes.h"
#include "bitlab/profile/profiler.h"

namespace bitlab::cli {
namespace {

using Clock = std::chrono::steady_clock;
struct BenchmarkOptions {
  std::string model;
  int64_t batch = 1;
  std::vector<std::string> sizes;
  int threads = 0;
  std::string device;
  double seconds = 2;
  bool json = false;
};

struct Measurement {
  std::unique_ptr<runtime::Session> session;
  std::vector<double> seconds;  // a run, sorted
  profile::Profile traced;      // of other runs
};

double percentile(const std::vector<double>& sorted, double fraction) {
  return sorted[static_cast<size_t>(std::lround(fraction * static_cast<double>(sorted.size() - 1)))];
}

constexpr int kLeastRuns = 5, kTracedRuns = 200;  // a profiler keeps every event

// Runs for the given time, at least a few times and at most as often as that.
Status measure(runtime::Session& session, const Inputs& inputs, double seconds, std::vector<double>* runs,
               int most = std::numeric_limits<int>::max()) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (int i = 0; i < kLeastRuns || (Clock::now() < end && i < most); ++i) {
    session.reset();
    const auto start = Clock::now();
    BITLAB_RETURN_IF_ERROR(session.run(inputs.views()));
    if (runs != nullptr) runs->push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return {};
}

Result<Measurement> run_benchmark(const std::shared_ptr<const runtime::Model>& model, const BenchmarkOptions& options) {
  BITLAB_TRY(const program::SymbolSizes sizes, symbol_sizes(model->program(), options.batch, options.sizes));
  const Inputs inputs(model->program(), sizes);
  Measurement m;
  BITLAB_TRY(m.session,
             runtime::Session::create(model, {.threads = options.threads, .trace = {}, .device = options.device}));
  BITLAB_RETURN_IF_ERROR(measure(*m.session, inputs, options.seconds / 10, nullptr));  // warm
  BITLAB_RETURN_IF_ERROR(measure(*m.session, inputs, options.seconds, &m.seconds));
  std::sort(m.seconds.begin(), m.seconds.end());
  profile::BitProfiler profiler;  // in a session of its own, so that it costs the others nothing
  BITLAB_TRY(auto traced, runtime::Session::create(
                              model, {.threads = options.threads, .trace = profiler.sink(), .device = options.device}));
  BITLAB_RETURN_IF_ERROR(measure(*traced, inputs, options.seconds / 4, nullptr, kTracedRuns));
  BITLAB_TRY(m.traced, profile::profile(profiler, *traced));
  return m;
}

Json report_of(const runtime::Model& model, const BenchmarkOptions& options, const Measurement& m) {
  const runtime::Session& session = *m.session;
  Json nodes = Json::array();
  for (const profile::StepProfile& step : m.traced.steps)
    nodes.push_back({{"node", step.name}, {"op", step.ops}, {"share", step.share}, {"kernels", step.kernels}});
  const double median = percentile(m.seconds, 0.5);
  return {{"model", options.model},
          {"cpu", this_machine().cpu},
          {"device", session.device()},
          {"threads", session.threads()},
          {"batch", options.batch},
          {"runs", m.seconds.size()},
          {"latency_ms",
           {{"p50", 1e3 * median},
            {"p90", 1e3 * percentile(m.seconds, 0.9)},
            {"p99", 1e3 * percentile(m.seconds, 0.99)},
            {"least", 1e3 * m.seconds.front()}}},
          {"samples_per_s", static_cast<double>(options.batch) / median},
          {"weight_bytes", model.weight_bytes()},
          {"activation_bytes", session.arena_bytes()},
          {"device_bytes", session.device_bytes()},
          {"peak_process_bytes", m.traced.memory.process_peak_bytes},
          {"nodes", nodes}};
}

void print_measurement(const Json& r) {
  const Json& latency = r["latency_ms"];
  const auto device = r["device"].get<std::string>();
  fmt::print("{}\n{}{}, {} threads, batch {}, {} runs\n\n", r["model"].get<std::string>(),
             device == "cpu" ? "" : device + ", ", r["cpu"].get<std::string>(), r["threads"].get<int>(),
             r["batch"].get<int64_t>(), r["runs"].get<int64_t>());
  fmt::print("latency      {:.3f} ms median, {:.3f} ms p90, {:.3f} ms p99, {:.3f} ms least\n", latency["p50"].get<double>(),
             latency["p90"].get<double>(), latency["p99"].get<double>(), latency["least"].get<double>());
  fmt::print("throughput   {:.1f} samples/s\n", r["samples_per_s"].get<double>());
  fmt::print("memory       {} weights, {} activations, {} process peak{}\n\n",
             format_bytes(r["weight_bytes"].get<int64_t>()), format_bytes(r["activation_bytes"].get<int64_t>()),
             format_bytes(r["peak_process_bytes"].get<int64_t>()),
             device == "cpu" ? "" : fmt::format(", {} on the device", format_bytes(r["device_bytes"].get<int64_t>())));
  std::vector<std::vector<std::string>> table{{"node", "op", "time", "kernels"}};
  for (const Json& node : r["nodes"])
    table.push_back({node["node"].get<std::string>(), node["op"].get<std::string>(),
                     fmt::format("{:.1f} %", 100 * node["share"].get<double>()), node["kernels"].get<std::string>()});
  fmt::print("{}", format_table(table));
}

Status run(const BenchmarkOptions& options) {
  BITLAB_TRY(auto model, runtime::Model::load(options.model));
  BITLAB_TRY(const Measurement measurement, run_benchmark(model, options));
  const Json report = report_of(*model, options, measurement);
  if (options.json) {
    fmt::print("{}\n", json_text(report, 2));
  } else {
    print_measurement(report);
  }
  return {};
}

}  // namespace

void add_benchmark(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchmarkOptions>();
  CLI::App* command = app.add_subcommand("benchmark", "Measure a deployed model: latency, throughput, memory, time by node");
  add_model(*command, options->model);
  add_batch(*command, options->batch, "Samples a run");
  add_sizes(*command, options->sizes);
  add_threads(*command, options->threads);
  add_device(*command, options->device);
  command->add_option("--seconds", options->seconds, "How long to measure")
      ->capture_default_str()
      ->check(NumberIn(0.01, 3600.0));
  add_json(*command, options->json);
  command->footer(
      "Inputs are random. A time on a shared machine means little by itself: compare within one run, with BITLAB_KERNEL "
      "set\n"
      "or not.\n"
      "Examples:\n"
      "  bitlab-run benchmark lenet5.bit\n"
      "  bitlab-run benchmark lenet5.bit --batch 64 --threads 1 --json");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace bitlab::cli
