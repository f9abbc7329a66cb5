#include "bitlab/base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <vector>

#include "bitlab/base/internal/float_environment.h"

namespace bitlab {
namespace {

class SerialPool final : public ThreadPool {
 public:
  int threads() const override { return 1; }
  void run(int64_t count, IndexTask task) override {
    ScopedFloatEnvironment environment;
    for (int64_t i = 0; i < count; ++i) task(i, 0);
  }
};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // as long as a pause of x86, where yield is nothing
#endif
}

// Waits busily until `done`, for so long: whether it is. Whoever else wants this processor has it.
template <class Done>
bool spin(std::chrono::microseconds limit, const Done& done) {
  constexpr int kLooks = 64;  // between two looks at the clock
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int look = 0; look < kLooks; ++look, relax())
      if (done()) return true;
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Workers wait for an epoch counter. run() publishes a task, opens the gate, raises the epoch, works along, shuts the gate, and waits for the workers
// within: not for one that has still to wake up, which finds the gate shut.
class WorkerPool final : public ThreadPool {
 public:
  // Workers that have processors of their own stay awake over what one thread does between runs; others make room.
  explicit WorkerPool(int threads)
      : spin_(static_cast<unsigned>(threads) <= std::thread::hardware_concurrency() ? kLong : kShort) {
    for (int i = 1; i < threads && start(i); ++i) {
    }
  }

  ~WorkerPool() override {
    stop_ = true;
    wake();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const override { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t count, IndexTask task) override {
    ScopedFloatEnvironment environment;
    if (count <= 1) {
      if (count == 1) task(0, 0);
      return;
    }
    task_ = &task;
    count_ = count;
    next_ = 0;
    gate_.store(kOpen, std::memory_order_release);
    wake();
    drain(task, 0);
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    wait_until_left();
  }

 private:
  // False where the system has no more threads: the others do the work, with the same result.
  bool start(int worker) {
#ifdef __cpp_exceptions
    try {
      workers_.emplace_back([this, worker] { work(worker); });
    } catch (const std::exception&) {
      return false;
    }
#else
    workers_.emplace_back([this, worker] { work(worker); });
#endif
    return true;
  }

  static constexpr std::chrono::microseconds kShort{30}, kLong{200};  // a sleep and a wake-up take as long as the first
  static constexpr uint32_t kOpen = 1U << 31;

  void wake() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void drain(const IndexTask& task, int worker) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task(i, worker);
  }

  bool enter() {
    for (uint32_t gate = gate_.load(std::memory_order_relaxed); (gate & kOpen) != 0;)
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    return false;
  }

  void leave() {
    if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_one();
  }

  void wait_until_left() {
    if (spin(kShort, [&] { return gate_.load(std::memory_order_acquire) == 0; })) return;
    for (uint32_t gate; (gate = gate_.load(std::memory_order_acquire)) != 0;) gate_.wait(gate);
  }

  void wait_for_epoch(uint32_t seen) {
    if (spin(spin_, [&] { return epoch_.load(std::memory_order_acquire) != seen; })) return;
    epoch_.wait(seen, std::memory_order_acquire);
  }

  void work(int worker) {
    ScopedFloatEnvironment environment;
    for (uint32_t seen = 0;;) {
      wait_for_epoch(seen);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      if (!enter()) continue;
      drain(*task_, worker);
      leave();
    }
  }

  const std::chrono::microseconds spin_;
  const IndexTask* task_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> gate_{0};  // workers within, and kOpen
  std::atomic<uint32_t> epoch_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;  // not std::jthread, which the C++ libraries of phones lack
};

}  // namespace

std::unique_ptr<ThreadPool> make_thread_pool(int threads) {
  if (threads <= 1) return std::make_unique<SerialPool>();
  return std::make_unique<WorkerPool>(threads);
}

}  // namespace bitlab
