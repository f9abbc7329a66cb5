#include "bitlab/profile/roofs.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/profile/internal/roof_loops.h"

namespace bitlab::profile {

#define BITLAB_ROOF(name, kind, target, features, products) void roof_##name(const void* data, int64_t count);
#include "bitlab/profile/roofs/roofs.def"
#undef BITLAB_ROOF

std::span<const RoofLoop> roof_loops() {
  static constexpr std::array kLoops{
#define BITLAB_ROOF(name, kind, target, features, products) \
  RoofLoop{#name, RoofKind::kind, features, products, BITLAB_BUILT(name, target, roof_##name)},
#include "bitlab/profile/roofs/roofs.def"
#undef BITLAB_ROOF
  };
  return kLoops;
}

const RoofLoop& fastest_loop(RoofKind kind, const Machine& machine) {
  const RoofLoop* fastest = nullptr;
  for (const RoofLoop& loop : roof_loops())
    if (loop.kind == kind && loop.run != nullptr && loop.needs.minus(machine.features).empty()) fastest = &loop;
  return *fastest;  // the portable one at least
}

namespace {

constexpr int kSamples = 7;
constexpr double kSampleSeconds = 2e-3;

// The most work a second of several samples; each calls `work`, on every thread, as often as takes a few milliseconds.
template <class Work>
double best_rate(ThreadPool& pool, double units, const Work& work) {
  using Clock = std::chrono::steady_clock;
  int64_t repeats = 1;
  double best = 0;
  for (int sample = 0; sample < kSamples;) {
    const auto start = Clock::now();
    pool.run(pool.threads(), [&](int64_t thread, int) {
      for (int64_t i = 0; i < repeats; ++i) work(thread);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds < kSampleSeconds && sample == 0) {
      repeats *= 2;
      continue;
    }
    best = std::max(best, units * static_cast<double>(repeats) * pool.threads() / std::max(seconds, 1e-9));
    ++sample;
  }
  return best;
}

double product_rate(ThreadPool& pool, RoofKind kind) {
  constexpr int64_t kSteps = 2000;
  const RoofLoop& loop = fastest_loop(kind);
  return best_rate(pool, loop.products * kSteps, [&](int64_t) { loop.run(nullptr, kSteps); });
}

// Each thread reads a part of its own again and again.
Result<double> read_rate(ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kStep = 256, kPrefetched = 8192;
  const RoofLoop& loop = fastest_loop(RoofKind::kRead);
  const int64_t part = round_up(ceil_div(bytes, pool.threads()), kStep);
  BITLAB_TRY(const AlignedBuffer data, AlignedBuffer::allocate(static_cast<size_t>(part * pool.threads() + kPrefetched)));
  return best_rate(pool, static_cast<double>(part), [&](int64_t thread) { loop.run(data.data() + thread * part, part); });
}

// The levels of this machine, with the bytes that are read to measure each.
std::vector<std::pair<MemoryRoof, int64_t>> levels_of(const Machine& machine, int threads) {
  constexpr int64_t kLeast = int64_t{64} << 20, kMost = int64_t{256} << 20;  // of the memory
  std::vector<std::pair<MemoryRoof, int64_t>> levels;
  const auto add = [&](const char* level, int64_t capacity) {
    if (levels.empty() || capacity > levels.back().first.capacity)
      levels.push_back({{level, capacity, 0}, std::min(capacity / 2, kMost / 2)});
  };
  add("L1", machine.l1d_bytes * threads);
  add("L2", machine.l2_bytes * threads);
  add("L3", machine.l3_bytes);
  levels.push_back({{"memory", std::numeric_limits<int64_t>::max(), 0}, std::clamp(4 * machine.l3_bytes, kLeast, kMost)});
  return levels;
}

}  // namespace

double Roofs::macs_per_s(Arithmetic arithmetic) const {
  switch (arithmetic) {
    case Arithmetic::kInt8:
      return int8_macs_per_s;
    case Arithmetic::kFloat32:
      return float32_macs_per_s;
    default:
      return std::numeric_limits<double>::infinity();
  }
}

double Roofs::bytes_per_s(int64_t bytes) const {
  return std::find_if(memory.begin(), memory.end() - 1, [&](const MemoryRoof& level) { return bytes <= level.capacity; })
      ->bytes_per_s;
}

double Roofs::seconds(const StepCost& cost) const {
  return std::max(static_cast<double>(cost.macs) / macs_per_s(cost.arithmetic),
                  static_cast<double>(cost.bytes) / bytes_per_s(cost.bytes));
}

Result<Roofs> measure_roofs(int threads) {
  const std::unique_ptr<ThreadPool> pool = make_thread_pool(threads);
  Roofs roofs{.threads = threads,
              .int8_macs_per_s = product_rate(*pool, RoofKind::kInt8),
              .float32_macs_per_s = product_rate(*pool, RoofKind::kFloat32)};
  for (auto& [level, bytes] : levels_of(this_machine(), threads)) {
    BITLAB_TRY(level.bytes_per_s, read_rate(*pool, bytes));
    roofs.memory.push_back(std::move(level));
  }
  // What is disturbed at the moment is at least as fast as the next level.
  for (size_t i = roofs.memory.size() - 1; i-- > 0;)
    roofs.memory[i].bytes_per_s = std::max(roofs.memory[i].bytes_per_s, roofs.memory[i + 1].bytes_per_s);
  return roofs;
}

}  // namespace bitlab::profile
