#include "bitlab/base/thread_pool.h"

#include <atomic>
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

// Workers sleep on an epoch counter; run() publishes a task, raises the epoch, works along, and waits for the workers.
class WorkerPool final : public ThreadPool {
 public:
  explicit WorkerPool(int threads) {
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
    busy_ = static_cast<int>(workers_.size());
    wake();
    drain(task, 0);
    wait_until_idle();
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

  static constexpr int kSpins = 2000;  // a few microseconds: shorter than a sleep and a wake-up

  void wake() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void drain(const IndexTask& task, int worker) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task(i, worker);
  }

  void wait_until_idle() {
    for (int spin = 0; spin < kSpins; ++spin)
      if (busy_.load(std::memory_order_acquire) == 0) return;
    for (int busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) busy_.wait(busy);
  }

  void wait_for_epoch(uint32_t seen) {
    for (int spin = 0; spin < kSpins; ++spin)
      if (epoch_.load(std::memory_order_acquire) != seen) return;
    epoch_.wait(seen, std::memory_order_acquire);
  }

  void work(int worker) {
    ScopedFloatEnvironment environment;
    for (uint32_t seen = 0;;) {
      wait_for_epoch(seen);
      ++seen;
      if (stop_) return;
      drain(*task_, worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  const IndexTask* task_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
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
