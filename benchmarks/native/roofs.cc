// The peaks of this machine, as tasks.
#include "benchmarks/native/task.h"

#include <fmt/format.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/thread_pool.h"

namespace bitlab::bench {
namespace {

// The same loop on every thread.
class Peak final : public Task {
 public:
  Peak(void (*loop)(int64_t), double products_a_step, int threads) : loop_(loop), pool_(make_thread_pool(threads)) {
    work = 2 * products_a_step * static_cast<double>(kSteps) * threads;
  }
  void run() override {
    pool_->run(pool_->threads(), [&](int64_t, int) { loop_(kSteps); });
  }

 private:
  static constexpr int64_t kSteps = 20'000;
  void (*loop_)(int64_t);
  std::unique_ptr<ThreadPool> pool_;
};

class Read final : public Task {
 public:
  Read(void (*loop)(const void*, int64_t), int64_t bytes, int threads)
      : loop_(loop),
        bytes_(round_up(bytes, 256)),
        data_(AlignedBuffer::allocate(static_cast<size_t>(bytes_ * threads + 8192)).value()),
        pool_(make_thread_pool(threads)) {
    work = static_cast<double>(bytes_ * threads);
  }
  void run() override {
    pool_->run(pool_->threads(), [&](int64_t i, int) { loop_(data_.data() + i * bytes_, bytes_); });
  }

 private:
  void (*loop_)(const void*, int64_t);
  int64_t bytes_;
  AlignedBuffer data_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace

std::unique_ptr<Task> make_roof(const std::string& name, int64_t bytes, int threads, std::string* error) {
#if defined(__x86_64__)
  const FeatureSet& has = this_machine().features;
  if (name == "vpdpbusd" && has.contains(Feature::avx512vnni))
    return std::make_unique<Peak>(peak_vpdpbusd, 16 * 64, threads);
  if (name == "vpmaddubsw" && has.contains(Feature::avx2)) return std::make_unique<Peak>(peak_vpmaddubsw, 16 * 32, threads);
  if (name == "read" && has.contains(Feature::avx512vnni)) return std::make_unique<Read>(read_avx512, bytes, threads);
  if (name == "read" && has.contains(Feature::avx2)) return std::make_unique<Read>(read_avx2, bytes, threads);
#else
  (void)bytes;
  (void)threads;
#endif
  *error = fmt::format("a roof that this machine has, got '{}'", name);
  return nullptr;
}

}  // namespace bitlab::bench
