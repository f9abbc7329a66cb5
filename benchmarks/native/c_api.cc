// The tasks for Python (benchmarks/native.py): handles, and one function that times them.
#include "benchmarks/native/task.h"
#include <chrono>
#include <cstring>

#include "bitlab/base/machine.h"

namespace {

using bitlab::bench::Task;

struct Handle {
  std::unique_ptr<Task> task;
  std::string kernel;
};

thread_local std::string last_error;

Handle* handle(std::unique_ptr<Task> task, std::string kernel) {
  return task == nullptr ? nullptr : new Handle{std::move(task), std::move(kernel)};
}

}  // namespace

extern "C" {

const char* bitlab_bench_error() { return last_error.c_str(); }

const char* bitlab_bench_cpu() { return bitlab::this_machine().cpu.c_str(); }

const char* bitlab_bench_features() {
  static const std::string text = bitlab::this_machine().features.to_string();
  return text.c_str();
}

void* bitlab_bench_gemm(int64_t tokens, int64_t rows, int64_t depth, int64_t group, int from_float, const char* policy,
                        int threads) {
  std::string kernel;
  auto task = bitlab::bench::make_gemm({tokens, rows, depth, group, from_float != 0}, policy, threads, &kernel, &last_error);
  return handle(std::move(task), kernel);
}

void* bitlab_bench_conv(int64_t batch, int64_t channels, int64_t side, int64_t filters, int64_t kernel_size,
                        const char* policy, int threads) {
  std::string kernel;
  auto task = bitlab::bench::make_conv({batch, channels, side, filters, kernel_size}, policy, threads, &kernel, &last_error);
  return handle(std::move(task), kernel);
}

void* bitlab_bench_quant(int64_t values, const char* policy) {
  std::string kernel;
  auto task = bitlab::bench::make_quant(values, policy, &kernel, &last_error);
  return handle(std::move(task), kernel);
}

void* bitlab_bench_pack(int64_t rows, int64_t depth) {
  auto task = bitlab::bench::make_pack(rows, depth, &last_error);
  return handle(std::move(task), "");
}

void* bitlab_bench_roof(const char* name, int64_t bytes, int threads) {
  auto task = bitlab::bench::make_roof(name, bytes, threads, &last_error);
  return handle(std::move(task), name);
}

const char* bitlab_bench_kernel(void* task) { return static_cast<Handle*>(task)->kernel.c_str(); }
double bitlab_bench_work(void* task) { return static_cast<Handle*>(task)->task->work; }

// Seconds that `repeats` runs took.
double bitlab_bench_run(void* task, int repeats) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) static_cast<Handle*>(task)->task->run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void bitlab_bench_free(void* task) { delete static_cast<Handle*>(task); }

}  // extern "C"
