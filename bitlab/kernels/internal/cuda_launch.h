// Starting kernels whose bodies the host runs, too (cuda_block.h). Where no CUDA compiler is at work, blocks run one after another when their turn on
// the stream comes: start_on_host() and check_on_host() are the program's that has them run (tests/cuda/emulated_plugin.cc).
//
//   struct Kernel {
//     static constexpr int kThreads = 128;
//     struct Args { ... };    plain data, at most 4 KiB
//     struct Shared { ... };  what the threads of a block share
//     static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Args& args, Shared& shared);
//   };
#pragma once

#include "bitlab/kernels/internal/cuda_block.h"

#if defined(__CUDACC__)
#include "bitlab/base/internal/cuda_error.h"
#else
#include <functional>
#include <memory>
#endif

namespace bitlab::cuda {

struct Grid {
  int64_t x = 1, y = 1;
};

inline constexpr int64_t kMostBlocksX = 2147483647, kMostBlocksY = 65535;

constexpr int64_t blocks_for(int64_t count, int64_t each) { return (count + each - 1) / each; }

#if defined(__CUDACC__)
// Of the current device.
inline int64_t multiprocessors() {
  int device = 0, count = 0;
  const bool found = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return found ? count : 1;
}

template <class Kernel>
__global__ __launch_bounds__(Kernel::kThreads) void run_block(const typename Kernel::Args args) {
  __shared__ typename Kernel::Shared shared;
  Kernel::run({blockIdx.x, blockIdx.y}, args, shared);
}
#else
#if defined(BITLAB_HOST_THREADS)
void run_as_block(int threads, const std::function<void()>& thread);
#else
template <class Thread>
void run_as_block(int, const Thread& thread) {
  thread();
}
#endif
inline int64_t multiprocessors() { return 8; }
void start_on_host(void* stream, std::function<void()> work);
// What is wrong with the words of a kernel's arguments: a pointer to memory that no device has.
const char* check_on_host(const void* args, size_t bytes);
template <class Args>
const char* check_args(Args args) {
#if __has_builtin(__builtin_clear_padding)  // what stands between fields may be anything
  __builtin_clear_padding(&args);
  return check_on_host(&args, sizeof(args));
#else
  return nullptr;
#endif
}
#endif

// Null, or what is wrong.
template <class Kernel>
const char* launch(Grid grid, const typename Kernel::Args& args, void* stream) {
  if (grid.x == 0 || grid.y == 0) return nullptr;
  if (grid.x > kMostBlocksX || grid.y > kMostBlocksY) return "work that fits a grid of blocks";
#if defined(__CUDACC__)
  run_block<Kernel><<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)), Kernel::kThreads, 0,
                      static_cast<cudaStream_t>(stream)>>>(args);
  return launch_problem();
#else
  if (const char* wrong = check_args(args)) return wrong;
  start_on_host(stream, [grid, args] {
    const auto shared = std::make_unique<typename Kernel::Shared>();
    for (int64_t y = 0; y < grid.y; ++y)
      for (int64_t x = 0; x < grid.x; ++x) run_as_block(Kernel::kThreads, [&] { Kernel::run({x, y}, args, *shared); });
  });
  return nullptr;
#endif
}

// each(i) for each i < each.count, a thread each.
template <class Each>
struct ForEach {
  static constexpr int kThreads = 256;
  using Args = Each;
  struct Shared {};
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Each& each, Shared&) {
    block.each([&](int thread) {
      const int64_t i = block.x * kThreads + thread;
      if (i < each.count) each(i);
    });
  }
};
template <class Each>
const char* for_each(const Each& each, void* stream) {
#if defined(BITLAB_HOST_THREADS)  // these share nothing
  start_on_host(stream, [each] {
    for (int64_t i = 0; i < each.count; ++i) each(i);
  });
  return nullptr;
#endif
  return launch<ForEach<Each>>({blocks_for(each.count, ForEach<Each>::kThreads)}, each, stream);
}

// i / by, by the short division where both are short.
BITLAB_HOST_DEVICE int64_t divided(int64_t i, int64_t by) {
  constexpr int64_t kShort = int64_t{1} << 32;
  if (i < kShort && by < kShort) return static_cast<uint32_t>(i) / static_cast<uint32_t>(by);
  return i / by;
}

}  // namespace bitlab::cuda
