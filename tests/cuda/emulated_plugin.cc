// The plug-in for NVIDIA GPUs as the host can run it: devices whose memory is the host's and whose kernels run block after block, lane after lane
// (cuda_launch.h). For tests alone. What CUDA alone can write, the products of wgmma, are those of mma.sync here.
#define BITLAB_ONE_LANE
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "bitlab/kernels/activation_quant/cuda/activation_quant.cu"
#include "bitlab/kernels/attention/cuda/attention.cu"
#include "bitlab/kernels/elementwise/cuda/elementwise.cu"
#include "bitlab/kernels/encode/cuda/encode.cu"
#include "bitlab/kernels/float_gemm/cuda/float_gemm.cu"
#include "bitlab/kernels/grid_sample/cuda/grid_sample.cu"
#include "bitlab/kernels/internal/cuda_operations.h"
#include "bitlab/kernels/movement/cuda/movement.cu"
#include "bitlab/kernels/pool/cuda/pool.cu"
#include "bitlab/kernels/recurrent/cuda/recurrent.cu"
#include "bitlab/kernels/reduction/cuda/reduction.cu"
#include "bitlab/kernels/resample/cuda/resample.cu"
#include "bitlab/kernels/rotary/cuda/rotary.cu"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.cu"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.cu"
#include "bitlab/kernels/ternary_gemm/cuda/products.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.cu"

namespace bitlab::cuda {
namespace {

// Where the host plays LibTorch's kernels as well (played_libtorch.cc), which no stream sees.
const bool is_open = std::getenv("BITLAB_EMULATED_OPEN_MEMORY") != nullptr;

// Two of them, of which a thread begins with the second: what asks for the first one is to make it the current one. LibTorch, where it is played, has the first.
constexpr int kDevices = 2;
thread_local int current_device = is_open ? 0 : kDevices - 1;

struct Work {
  std::function<void()> run;
  bool is_early = false;  // it begins before the work in front of it has ended, for which it waits (cuda_block.h)
};

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  int device;
  std::unique_ptr<Graph> graph{};  // that writes down what it is given
  std::function<void()> last{};

  // The current device's default stream where none is named. Streams of another device take nothing, as CUDA's.
  static Stream& of(void* stream) {
    static Stream standard[kDevices]{{0}, {1}};
    Stream& own = stream == nullptr ? standard[current_device] : *static_cast<Stream*>(stream);
    if (own.device == current_device) return own;
    std::fprintf(stderr, "a stream of device %d, with %d as the current one\n", own.device, current_device);
    std::abort();
  }
};

// Memory of a device: a range of addresses that faults unless work of a stream is under way. So a step of the host that reads it ends the test, as
// does a kernel with memory that was given back.
class Memory {
 public:
  static Memory& of(int device) {
    static Memory memories[kDevices];
    return memories[device];
  }
  // That in which an address lies; null for the host's.
  static Memory* with(const void* address) {
    for (int device = 0; device < kDevices; ++device)
      if (of(device).has(reinterpret_cast<uint64_t>(address))) return &of(device);
    return nullptr;
  }

  const char* allocate(int64_t bytes, void** to) {
    const std::lock_guard lock(mutex_);
    const size_t size = (static_cast<size_t>(std::max<int64_t>(bytes, 1)) + kPage - 1) / kPage * kPage + kPage;  // and a gap
    if (bytes > static_cast<int64_t>(kBytes) || top_ + size > kBytes) return "out of memory";
    if (const auto known = free_.find(size); known != free_.end()) {
      *to = known->second;
      free_.erase(known);
    } else {
      *to = base_ + top_;
      top_ += size;
    }
    sizes_[*to] = size;
    open();
    std::memset(*to, 0xA5, size - kPage);  // of a device that was used before
    close();
    return nullptr;
  }
  void release(void* memory) {
    if (memory == nullptr) return;
    const std::lock_guard lock(mutex_);
    finish_all();
    const auto at = sizes_.find(memory);
    madvise(memory, at->second, MADV_DONTNEED);
    free_.emplace(at->second, memory);
    sizes_.erase(at);
  }
  bool has(uint64_t address) const {
    return address >= reinterpret_cast<uint64_t>(base_) && address < reinterpret_cast<uint64_t>(base_) + kBytes;
  }
  // One stream works at a time.
  template <class Work>
  void run(const Work& work) {
    const std::lock_guard lock(mutex_);
    open();
    work();
    close();
  }

  // The last work that a stream was given ends as late as it may: when something waits for it. So what reads its results before that is seen.
  void start(Stream& stream, const Work& work) {
    const std::lock_guard lock(mutex_);
    if (!work.is_early) finish(stream);
    stream.last = [earlier = std::exchange(stream.last, nullptr), run = work.run] {
      earlier_work = earlier;
      run();
      wait_for_earlier_work();
    };
    working_.insert(&stream);
  }
  void finish(Stream& stream) {
    const std::lock_guard lock(mutex_);
    working_.erase(&stream);
    if (const auto last = std::exchange(stream.last, nullptr)) run(last);
  }

 private:
  void finish_all() {
    while (!working_.empty()) finish(**working_.begin());
  }

  static constexpr size_t kBytes = size_t{1} << 36, kPage = 4096;

  Memory()
      : base_(static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  void open() const { mprotect(base_, top_, PROT_READ | PROT_WRITE); }
  void close() const {
    if (!is_open) mprotect(base_, top_, PROT_NONE);
  }

  uint8_t* base_;
  size_t top_ = 0;
  std::map<void*, size_t> sizes_;
  std::multimap<size_t, void*> free_;
  std::recursive_mutex mutex_;
  std::set<Stream*> working_;
};

void start(void* handle, Work work) {
  Stream& stream = Stream::of(handle);
  if (stream.graph != nullptr) {
    stream.graph->work.push_back(std::move(work));
  } else {
    Memory::of(stream.device).start(stream, work);
  }
}
void finish(Stream& stream) { Memory::of(stream.device).finish(stream); }

}  // namespace

void start_on_host(void* stream, std::function<void()> work) { start(stream, {std::move(work)}); }

// A word that is the address of memory which is there, but not the device's.
const char* check_on_host(const void* args, size_t bytes) {
  constexpr uint64_t kFirst = uint64_t{1} << 32, kLast = uint64_t{1} << 47;
  for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const uint8_t*>(args) + at, sizeof(word));
    if (word < kFirst || word >= kLast || Memory::of(current_device).has(word)) continue;
    if (Memory::with(reinterpret_cast<const void*>(word)) != nullptr)
      return "pointers to the device's memory, got another device's";
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    if (msync(reinterpret_cast<void*>(word / page * page), 1, MS_ASYNC) == 0)
      return "pointers to the device's memory, got the host's";
  }
  return nullptr;
}

}  // namespace bitlab::cuda

namespace bitlab::kernels {
namespace {

using cuda::Graph;
using cuda::Memory;
using cuda::Stream;

template <class Product>
void run_product(const TernaryGemmArgs& args, int64_t tokens) {
  const auto shared = std::make_unique<typename Product::Shared>();
  for (int64_t x = 0; x * Product::kRows < args.rows; ++x)
    for (int64_t y = 0; y * Product::kTokens < tokens; ++y) {
      const auto threads = std::make_unique<typename Product::Threads>();
      Product::run({x, y}, args, tokens, *threads, *shared);
    }
}

const char* emulated_gemm(const TernaryGemmArgs* args, int64_t tokens, int32_t number, void* stream) {
  if (tokens == 0 || args->rows == 0) return nullptr;
  if (const char* wrong = wrong_places(*args)) return wrong;
  if (const char* wrong = cuda::check_args(*args)) return wrong;
  const auto product = static_cast<CudaProduct>(number);
  if (!fits_mma(*args) || product == CudaProduct::kReference)
    return cuda::for_each(EachResult{*args, args->rows * tokens}, stream);
  if (product == CudaProduct::kMmaTiles || (product == CudaProduct::kAny && is_for_tiles(*args, tokens)))
    return start_tiles<false>({*args, tokens, {}}, stream);
  return with_mma_product(*args, tokens, [&](auto body) -> const char* {
    cuda::start(stream, {[args = *args, tokens] { run_product<decltype(body)>(args, tokens); }, !args->has_new_weights});
    return nullptr;
  });
}

CudaPlugin make_table() {
  CudaPlugin table{};
  add_operations(table);
  table.ternary_gemm = emulated_gemm;
  table.encode_absmean = cuda_encode_absmean;
  table.pack_ternary = [](const int8_t* t, int64_t rows, int64_t depth, uint8_t* packed, void* stream) {
    return cuda::for_each(EachWordOfWeights(t, rows, depth, packed), stream);
  };
  table.finish_sums = [](const TernaryGemmArgs* args, const int32_t* sums, int64_t sum_stride, int64_t tokens,
                         void* stream) {
    return cuda::for_each(EachSumOfOthers{*args, sums, sum_stride, args->rows * tokens}, stream);
  };
  table.count_devices = [](int32_t* count) -> const char* {
    *count = cuda::kDevices;
    return nullptr;
  };
  table.use_device = [](int32_t device, int32_t* before) -> const char* {
    if (before != nullptr) *before = cuda::current_device;
    if (device < 0 || device >= cuda::kDevices) return "invalid device ordinal";
    cuda::current_device = device;
    return nullptr;
  };
  table.allocate = [](int64_t bytes, void** memory) { return Memory::of(cuda::current_device).allocate(bytes, memory); };
  table.release = [](void* memory) {
    if (Memory* own = Memory::with(memory); own != nullptr) own->release(memory);
  };
  table.copy = [](void* to, const void* from, int64_t bytes, void* stream) -> const char* {
    cuda::start_on_host(stream, [=] { std::memmove(to, from, static_cast<size_t>(bytes)); });
    if (Stream& own = Stream::of(stream); own.graph == nullptr) cuda::finish(own);  // the host's memory is free to change
    return nullptr;
  };
  table.zero = [](void* to, int64_t bytes, void* stream) -> const char* {
    cuda::start_on_host(stream, [=] { std::memset(to, 0, static_cast<size_t>(bytes)); });
    return nullptr;
  };
  table.make_stream = [](void** stream) -> const char* {
    *stream = new Stream{cuda::current_device};
    return nullptr;
  };
  table.release_stream = [](void* stream) {
    cuda::finish(*static_cast<Stream*>(stream));
    delete static_cast<Stream*>(stream);
  };
  table.synchronize = [](void* stream) -> const char* {
    cuda::finish(Stream::of(stream));
    return nullptr;
  };
  table.begin_graph = [](void* stream) -> const char* {
    if (std::getenv("BITLAB_EMULATED_WITHOUT_GRAPHS") != nullptr) return "operation not supported";
    Stream::of(stream).graph = std::make_unique<Graph>();
    return nullptr;
  };
  table.end_graph = [](void* stream, void** graph) -> const char* {
    *graph = Stream::of(stream).graph.release();
    return nullptr;
  };
  table.run_graph = [](void* graph, void* stream) -> const char* {
    Stream& own = Stream::of(stream);
    for (const cuda::Work& work : static_cast<Graph*>(graph)->work) Memory::of(own.device).start(own, work);
    return nullptr;
  };
  table.release_graph = [](void* graph) { delete static_cast<Graph*>(graph); };
  table.is_capturing = [](void* stream, int32_t* answer) -> const char* {
    *answer = Stream::of(stream).graph != nullptr ? 1 : 0;
    return nullptr;
  };
  return table;
}

}  // namespace
}  // namespace bitlab::kernels

extern "C" __attribute__((visibility("default"))) const bitlab::kernels::CudaPlugin* bitlab_cuda_plugin() {
  static const bitlab::kernels::CudaPlugin plugin = bitlab::kernels::make_table();
  return &plugin;
}
