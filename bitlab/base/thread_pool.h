// Fork-join parallelism. Kernels get a ThreadPool handle and never start threads themselves; the part above the torch line
// passes one that runs on LibTorch's threads.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace bitlab {

// A reference to a callable void(Arguments...); does not own it.
template <class... Arguments>
class FunctionRef {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>>>
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload): passed as a lambda
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* object, Arguments... arguments) {
          (*static_cast<std::remove_reference_t<F>*>(object))(arguments...);
        }) {}
  void operator()(Arguments... arguments) const { call_(object_, arguments...); }

 private:
  void* object_;
  void (*call_)(void*, Arguments...);
};
using IndexTask = FunctionRef<int64_t, int>;      // index, worker
using RangeTask = FunctionRef<int64_t, int64_t>;  // begin, end

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  virtual int threads() const = 0;
  // Calls task(i, worker) once for every i in [0, count), on any thread and in any order, each under the contract's
  // floating-point state, and returns when all are done. worker in [0, threads()) tells the tasks that run at the same time
  // apart, for scratch memory. The task must not throw or call run().
  virtual void run(int64_t count, IndexTask task) = 0;
};

// [0, count) cut into parts of at most `most`, a multiple of `unit`: even ones, in whole units, and so many, where units are enough, that the parts of `things`
// which are cut this way are a multiple of the threads: all end together. One thread gets whole parts of `most`.
struct EvenParts {
  int64_t count, unit, units, parts;

  EvenParts(int64_t range, int64_t most, int64_t least, int64_t things, int threads)
      : count(range), unit(threads == 1 ? most : least), units((range + unit - 1) / unit), parts((range + most - 1) / most) {
    if (things * parts > threads)
      while (things * parts % threads != 0 && parts < units) ++parts;
  }
  int64_t begin(int64_t part) const { return part == parts ? count : part * units / parts * unit; }
};

// A pool of `threads` threads, the caller's included, or of as many as the system starts; 1 runs everything in the caller. One run() at a time.
std::unique_ptr<ThreadPool> make_thread_pool(int threads);

}  // namespace bitlab
