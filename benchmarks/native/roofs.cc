// The peaks of this machine, as tasks.
#include "benchmarks/native/task.h"

#include <fmt/format.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/profile/internal/roof_loops.h"

namespace bitlab::bench {
namespace {

// The same loop on every thread.
class Peak final : public Task {
 public:
  Peak(const profile::RoofLoop& loop, int threads) : loop_(loop), pool_(make_thread_pool(threads)) {
    work = 2 * loop.products * static_cast<double>(kSteps) * threads;
  }
  void run() override {
    pool_->run(pool_->threads(), [&](int64_t, int) { loop_.run(nullptr, kSteps); });
  }

 private:
  static constexpr int64_t kSteps = 20'000;
  const profile::RoofLoop& loop_;
  std::unique_ptr<ThreadPool> pool_;
};

class Read final : public Task {
 public:
  Read(const profile::RoofLoop& loop, int64_t bytes, int threads)
      : loop_(loop),
        bytes_(round_up(bytes, 256)),
        data_(AlignedBuffer::allocate(static_cast<size_t>(bytes_ * threads + 8192)).value()),
        pool_(make_thread_pool(threads)) {
    work = static_cast<double>(bytes_ * threads);
  }
  void run() override {
    pool_->run(pool_->threads(), [&](int64_t i, int) { loop_.run(data_.data() + i * bytes_, bytes_); });
  }

 private:
  const profile::RoofLoop& loop_;
  int64_t bytes_;
  AlignedBuffer data_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace

std::unique_ptr<Task> make_roof(const std::string& name, int64_t bytes, int threads, std::string* error) {
  if (name == "read") return std::make_unique<Read>(profile::fastest_loop(profile::RoofKind::kRead), bytes, threads);
  for (const profile::RoofLoop& loop : profile::roof_loops())
    if (loop.name == name && loop.run != nullptr && loop.products > 0 && loop.needs.minus(this_machine().features).empty())
      return std::make_unique<Peak>(loop, threads);
  *error = fmt::format("a roof that this machine has, got '{}'", name);
  return nullptr;
}

}  // namespace bitlab::bench
