// How a block of a CUDA kernel is written so that the host runs it, too: as phases that every thread goes through, over values that each thread has
// for itself. On the device a phase runs for the thread that is there; on the host for all threads, one after another, so that the suites of the CPU
// try the same body lane by lane.
//
//   block.each([&](int thread) { ... });   a phase; what it wrote to shared memory is seen behind block.sync()
//   PerThread<T, kThreads> x; x[thread]    registers
//
// With BITLAB_HOST_THREADS each thread is one of the host's, so that ThreadSanitizer sees where a block.sync() is missing (tests/cuda/races_test.cc).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if !defined(__CUDACC__)
#include <functional>
#include <utility>
#endif

// BITLAB_UNROLL_BY(n), in front of a loop of any length: so many of its loads are under way at once.
#define BITLAB_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__)
#define BITLAB_HOST_DEVICE __host__ __device__ __forceinline__
#define BITLAB_UNROLL _Pragma("unroll")
#define BITLAB_UNROLL_BY(n) BITLAB_PRAGMA(unroll n)
#else
#define BITLAB_HOST_DEVICE inline
#define BITLAB_UNROLL
#define BITLAB_UNROLL_BY(n)
#endif

namespace bitlab::cuda {

#if !defined(__CUDACC__)
// What the kernel that the host runs waits for, where it began early.
inline thread_local std::function<void()> earlier_work;
#endif

// A kernel may begin before the work in front of it on the stream has ended, if it was launched so, and read then what that work does not write. What
// it may write is read behind this, and by plain loads: the assembler takes __ldg() for loads of what nobody writes, and moves them above.
BITLAB_HOST_DEVICE void wait_for_earlier_work() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#elif !defined(__CUDACC__)
  if (const auto work = std::exchange(earlier_work, nullptr)) work();
#endif
}
// What is behind this kernel on the stream may begin so, as soon as all its blocks have said this.
BITLAB_HOST_DEVICE void let_later_work_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Where words of kBytes lie, which a device moves at once, and takes no others for that.
template <int kBytes, class T>
BITLAB_HOST_DEVICE T* aligned(T* pointer) {
#if !defined(__CUDA_ARCH__)
  if (reinterpret_cast<uintptr_t>(pointer) % kBytes != 0) __builtin_trap();
#endif
  return static_cast<T*>(__builtin_assume_aligned(pointer, kBytes));
}

// Four values side by side, which a device moves at once.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};
template <class T>
BITLAB_HOST_DEVICE Four<T> read_four(const T* from) {
  Four<T> values;
  std::memcpy(&values, aligned<sizeof(values)>(from), sizeof(values));
  return values;
}
template <class T>
BITLAB_HOST_DEVICE void write_four(T* to, const Four<T>& values) {
  std::memcpy(aligned<sizeof(values)>(to), &values, sizeof(values));
}
// Whether rows that are so long lie in such.
template <class T>
bool are_fours(const T* rows, int64_t columns) {
  return columns % 4 == 0 && reinterpret_cast<uintptr_t>(rows) % sizeof(Four<T>) == 0;
}

// The nearest integer from -limit to limit, of ties the even one; of NaN the limit.
BITLAB_HOST_DEVICE int8_t rounded_within(float value, float limit) {
  const float within = fmaxf(fminf(value, limit), -limit);
#if defined(__CUDA_ARCH__)
  return static_cast<int8_t>(__float2int_rn(within));
#else
  return static_cast<int8_t>(std::rint(within));
#endif
}

#if defined(__CUDA_ARCH__)
#define BITLAB_IS_A_THREAD  // of a block: what runs here
BITLAB_HOST_DEVICE int this_thread() { return static_cast<int>(threadIdx.x); }
#elif defined(BITLAB_HOST_THREADS)
#define BITLAB_IS_A_THREAD
// The program's.
int this_thread();
void wait_for_block();
void tell_warp(const void* own, size_t bytes, void* of_lanes);  // what each thread of the warp has
#endif

template <int kThreads>
struct Block {
  int64_t x = 0, y = 0;  // which block of the grid

  template <class Phase>
  BITLAB_HOST_DEVICE void each(const Phase& phase) const {
#if defined(BITLAB_IS_A_THREAD)
    phase(this_thread());
#else
    for (int thread = 0; thread < kThreads; ++thread) phase(thread);
#endif
  }
  BITLAB_HOST_DEVICE void sync() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#elif defined(BITLAB_HOST_THREADS)
    wait_for_block();
#endif
  }
};

template <class T, int kThreads>
struct PerThread {
#if defined(BITLAB_IS_A_THREAD)
  T value{};
  BITLAB_HOST_DEVICE T& operator[](int) { return value; }
#else
  T value[kThreads]{};
  T& operator[](int thread) { return value[thread]; }
#endif
};

constexpr int kWarp = 32;

#if defined(BITLAB_IS_A_THREAD)
BITLAB_HOST_DEVICE uint32_t greatest_of_warp(uint32_t own) {
#if defined(__CUDA_ARCH__)
  return __reduce_max_sync(0xFFFFFFFFU, own);
#else
  uint32_t all[kWarp];
  tell_warp(&own, sizeof(own), all);
  for (const uint32_t other : all) own = own < other ? other : own;
  return own;
#endif
}
#endif

// The greatest of the threads' values, for all of them.
template <int kThreads>
BITLAB_HOST_DEVICE uint32_t greatest(const Block<kThreads>& block, PerThread<uint32_t, kThreads>& own,
                                     uint32_t (&of_warp)[kThreads / kWarp]) {
#if defined(BITLAB_IS_A_THREAD)
  const int warp = this_thread() / kWarp, lane = this_thread() % kWarp;
  const uint32_t most = greatest_of_warp(own[0]);
  if (lane == 0) of_warp[warp] = most;
  block.sync();
  return greatest_of_warp(lane < kThreads / kWarp ? of_warp[lane] : 0);
#else
  uint32_t& most = of_warp[0] = 0;
  block.each([&](int thread) { most = most < own[thread] ? own[thread] : most; });
  return most;
#endif
}

// *to = max(*to, value), while other blocks do the same.
BITLAB_HOST_DEVICE void raise(uint32_t* to, uint32_t value) {
#if defined(__CUDA_ARCH__)
  atomicMax(to, value);
#else
  *to = *to < value ? value : *to;
#endif
}

// The operands of mma.sync.m16n8k32 on int8 with int32 sums, as PTX lays them over a warp. Lane l has g = l / 4 and c = l % 4:
//   a[i]      row g + 8 (i % 2), k = 16 (i / 2) + 4 c + byte
//   b[i]      k = 16 i + 4 c + byte, column g
//   sum[i]    row g + 8 (i / 2), column 2 c + i % 2
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k32".
struct Fragments {
  uint32_t a[4], b[2];
};
struct Sums {
  int32_t at[4];
};

#if !defined(__CUDA_ARCH__)
// The sum over k of a warp's product, by operand(lane).
template <class Operand>
uint32_t sum_of_warp(const Operand& operand, int row, int column) {
  const auto byte = [](uint32_t word, int i) { return static_cast<int32_t>(static_cast<int8_t>(word >> (8 * i))); };
  uint32_t total = 0;
  for (int k = 0; k < 32; ++k) {
    const int c = k % 16 / 4;
    const uint32_t a = operand(row % 8 * 4 + c).a[row / 8 + k / 16 * 2], b = operand(column * 4 + c).b[k / 16];
    total += static_cast<uint32_t>(byte(a, k % 4) * byte(b, k % 4));
  }
  return total;
}
#endif

// sum += a b, of every warp of the block. Sums wrap around, as those of the device do.
template <int kThreads, class Operand, class Sum>
BITLAB_HOST_DEVICE void multiply_add(const Block<kThreads>&, const Operand& operand, const Sum& sum) {
#if defined(__CUDA_ARCH__)
  const Fragments& f = operand(this_thread());
  Sums& s = sum(this_thread());
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(s.at[0]), "+r"(s.at[1]), "+r"(s.at[2]), "+r"(s.at[3])
      : "r"(f.a[0]), "r"(f.a[1]), "r"(f.a[2]), "r"(f.a[3]), "r"(f.b[0]), "r"(f.b[1]));
#else
  const auto add = [](Sums& to, const auto& operand_of, int lane) {
    for (int i = 0; i < 4; ++i) {
      const uint32_t more = sum_of_warp(operand_of, lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
      to.at[i] = static_cast<int32_t>(static_cast<uint32_t>(to.at[i]) + more);
    }
  };
#if defined(BITLAB_HOST_THREADS)
  Fragments all[kWarp];
  tell_warp(&operand(this_thread()), sizeof(Fragments), all);
  add(
      sum(this_thread()), [&](int lane) -> const Fragments& { return all[lane]; }, this_thread() % kWarp);
#else
  for (int thread = 0; thread < kThreads; ++thread)
    add(
        sum(thread), [&](int lane) -> const Fragments& { return operand(thread / kWarp * kWarp + lane); }, thread % kWarp);
#endif
#endif
}

}  // namespace bitlab::cuda
