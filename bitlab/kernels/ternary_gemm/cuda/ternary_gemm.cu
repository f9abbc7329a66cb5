#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include <cuda.h>
#include <cudaTypedefs.h>

#include "bitlab/base/internal/cuda_error.h"
#include "bitlab/kernels/ternary_gemm/cuda/products.h"
#include "bitlab/kernels/ternary_gemm/cuda/wgmma_body.cuh"

namespace bitlab::kernels {
namespace {

constexpr int64_t parts(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

struct Device {
  int id = 0;
  bool is_hopper = false;

  const char* find() {
    int major = 0;
    cudaError_t error = cudaGetDevice(&id);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id);
    is_hopper = major == 9;
    return cuda::problem(error);
  }
};

// The launch of a kernel that begins, where the device can, before the one in front of it on the stream has ended (cuda_block.h).
struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2] = {};

  Launch(dim3 grid, int threads, bool early, cudaStream_t stream) {
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    config.attrs = attributes;
    if (!early) return;
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
  }
  Launch(const Launch&) = delete;

  void in_clusters(int blocks) {
    if (blocks == 1) return;
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
};

// --- mma.sync

template <class Product>
__global__ __launch_bounds__(Product::kThreads) void mma_kernel(TernaryGemmArgs p, int64_t tokens) {
  __shared__ typename Product::Shared shared;
  typename Product::Threads threads;
  Product::run({blockIdx.x, blockIdx.y}, p, tokens, threads, shared);
}

template <class Product>
const char* start_mma(const TernaryGemmArgs& p, int64_t tokens, bool early, cudaStream_t stream) {
  constexpr int64_t kMost = cuda::kMostBlocksY * Product::kTokens;
  for (int64_t first = 0; first < tokens; first += kMost) {
    const int64_t count = std::min(kMost, tokens - first);
    const dim3 grid(static_cast<unsigned>(parts(p.rows, Product::kRows)), static_cast<unsigned>(parts(count, Product::kTokens)));
    const Launch launch(grid, Product::kThreads, early, stream);
    if (const char* wrong = cuda::problem(cudaLaunchKernelEx(&launch.config, mma_kernel<Product>, from_token(p, first), count))) return wrong;
  }
  return nullptr;
}

// --- wgmma

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define BITLAB_HAS_WGMMA 1
#endif

template <class Product>
__global__ __launch_bounds__(Product::kThreads, 1) void wgmma_kernel(const __grid_constant__ CUtensorMap map, const TernaryGemmArgs p,
                                                                         int64_t tokens) {
#if defined(BITLAB_HAS_WGMMA)
  extern __shared__ uint8_t memory[];
  Product::run(map, p, tokens, memory);
#endif
}

// q as a matrix of bytes of which boxes are copied; beyond its tokens and its rows' ends they are zero.
const char* describe_q(const TernaryGemmArgs& p, int64_t tokens, int box_tokens, CUtensorMap& map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) != cudaSuccess)
      return static_cast<PFN_cuTensorMapEncodeTiled_v12000>(nullptr);
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  if (encode == nullptr) return "a driver of CUDA 12 or newer";
  const int64_t columns = std::min(mma_chunks(p.depth) * kMmaDepth, p.q_stride);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(tokens)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(p.q_stride)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kMmaDepth), static_cast<cuuint32_t>(box_tokens)}, steps[] = {1, 1};
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<int8_t*>(p.q), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? nullptr : "q that a tensor map takes (aligned to 16)";
}

constexpr int kMostShare = 8;  // blocks of a cluster that every device of the kind takes

using Counts = std::array<int, kMostShare + 1>;

template <class Product>
struct Wgmma {
  // How many clusters of so many blocks run at once on the current device; 0 where it cannot have them. The shared memory that counting asks for is the
  // kernel's on that device alone.
  static const Counts& at_once(const Device& device) {
    static std::mutex mutex;
    static std::map<int, Counts> known;
    const std::lock_guard lock(mutex);
    const auto [found, is_new] = known.try_emplace(device.id);
    if (is_new) found->second = count_clusters(device);
    return found->second;
  }

  static Counts count_clusters(const Device& device) {
    Counts counts{};
    constexpr auto kBytes = static_cast<int>(Product::kSharedBytes);
    if (cuda::problem(cudaFuncSetAttribute(wgmma_kernel<Product>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)) != nullptr ||
        cuda::problem(cudaDeviceGetAttribute(&counts[1], cudaDevAttrMultiProcessorCount, device.id)) != nullptr)
      return {};
    for (int share = 2; share <= kMostShare; ++share) {
      Launch launch(dim3(static_cast<unsigned>(share)), Product::kThreads, true, nullptr);
      launch.config.dynamicSmemBytes = Product::kSharedBytes;
      launch.in_clusters(share);
      int& count = counts[static_cast<size_t>(share)];
      if (cuda::problem(cudaOccupancyMaxActiveClusters(&count, wgmma_kernel<Product>, &launch.config)) != nullptr) count = 0;
    }
    return counts;
  }

  static const char* start(const TernaryGemmArgs& p, int64_t tokens, const Device& device, int share, cudaStream_t stream) {
    CUtensorMap map;
    if (const char* wrong = describe_q(p, tokens, Product::kTokens, map)) return wrong;
    const int64_t tiles = parts(p.rows, Product::kRows) * parts(tokens, Product::kTokens);
    const int64_t blocks = share > 1 ? tiles * share : std::min<int64_t>(tiles, at_once(device)[1]);
    Launch launch(dim3(static_cast<unsigned>(blocks)), Product::kThreads, !p.has_new_weights, stream);
    launch.config.dynamicSmemBytes = Product::kSharedBytes;
    launch.in_clusters(share);
    return cuda::problem(cudaLaunchKernelEx(&launch.config, wgmma_kernel<Product>, map, p, tokens));
  }
};

struct Shape {
  int64_t rows, tokens;  // of a tile
  double chunk;          // microseconds for 128 k of a tile
  const Counts& (*at_once)(const Device&);
  const char* (*start)(const TernaryGemmArgs&, int64_t tokens, const Device&, int share, cudaStream_t);
};
template <class Product>
constexpr Shape shape(double chunk) {
  return {Product::kRows, Product::kTokens, chunk, Wgmma<Product>::at_once, Wgmma<Product>::start};
}
// A matrix instruction on registers takes as long for 64 tokens as for 128.
constexpr Shape kShapes[] = {
    shape<hopper::WgmmaProduct<2, 64, 8>>(0.30),
    shape<hopper::WgmmaProduct<4, 64, 8>>(0.50),
    shape<hopper::WgmmaProduct<2, 128, 8>>(0.35),
};

struct Choice {
  const Shape* shape = nullptr;
  int share = 1;
};

// By a model of the time that was fitted to measurements on an H100.
Choice choose(const TernaryGemmArgs& p, int64_t tokens, const Device& device) {
  constexpr double kTile = 1.5, kExchange = 1.4e-4;  // microseconds, the latter of a result
  Choice best;
  double least = 0;
  const int64_t chunks = mma_chunks(p.depth);
  for (const Shape& shape : kShapes) {
    const Counts& counts = shape.at_once(device);
    for (int share = 1; share <= kMostShare && share <= chunks; ++share) {
      const int64_t tiles = parts(p.rows, shape.rows) * parts(tokens, shape.tokens), at_once = counts[static_cast<size_t>(share)];
      if (at_once == 0 || (share > 1 && tiles > at_once)) continue;
      const double time = static_cast<double>(parts(tiles, at_once)) * (static_cast<double>(parts(chunks, share)) * shape.chunk + kTile) +
                          (share > 1 ? kExchange * static_cast<double>(shape.rows * shape.tokens) : 0);
      if (best.shape == nullptr || time < least) best = {&shape, share}, least = time;
    }
  }
  return best;
}

// mma.sync reads q anew for every 16 tokens; up to there, and a while longer for small weights, it is done before wgmma has begun.
bool is_for_mma(const TernaryGemmArgs& p, int64_t tokens) {
  constexpr int64_t kSmall = int64_t{1} << 24;
  return tokens <= 16 || (tokens <= 32 && p.rows * p.depth <= kSmall);
}

}  // namespace

const char* cuda_finish_sums(const TernaryGemmArgs& p, const int32_t* sums, int64_t sum_stride, int64_t tokens, void* stream) {
  return cuda::for_each(EachSumOfOthers{p, sums, sum_stride, p.rows * tokens}, stream);
}

const char* cuda_pack_ternary(const int8_t* t, int64_t rows, int64_t depth, uint8_t* packed, void* stream) {
  return cuda::for_each(EachWordOfWeights(t, rows, depth, packed), stream);
}

const char* cuda_ternary_gemm(const TernaryGemmArgs& p, int64_t tokens, CudaProduct product, void* stream_) {
  if (tokens == 0 || p.rows == 0) return nullptr;
  if (const char* wrong = wrong_places(p)) return wrong;
  const auto stream = static_cast<cudaStream_t>(stream_);
  Device device;
  if (const char* wrong = device.find()) return wrong;
  const bool fits = fits_mma(p), has_wgmma = fits && device.is_hopper && scaling_of(p) == TernaryScaling::kOne;
  if (product == CudaProduct::kAny) {
    if (!fits) {
      product = CudaProduct::kReference;
    } else if (has_wgmma) {
      product = is_for_mma(p, tokens) ? CudaProduct::kMma : CudaProduct::kWgmma;
    } else {
      product = is_for_tiles(p, tokens) ? CudaProduct::kMmaTiles : CudaProduct::kMma;
    }
  }
  switch (product) {
    case CudaProduct::kMma:
      if (!fits) return "a depth from 1 to 264192 for mma";
      return with_mma_product(p, tokens, [&](auto product) {
        return start_mma<decltype(product)>(p, tokens, device.is_hopper && !p.has_new_weights, stream);
      });
    case CudaProduct::kMmaTiles:
      if (!fits) return "a depth from 1 to 264192 for tiles of mma";
      return start_tiles<false>({p, tokens, {}}, stream_);
    case CudaProduct::kWgmma: {
      if (!has_wgmma) return "one scale a row, a depth from 1 to 264192 and a Hopper GPU for wgmma";
      const Choice choice = choose(p, tokens, device);
      return choice.shape == nullptr ? "a device with shared memory for wgmma" : choice.shape->start(p, tokens, device, choice.share, stream);
    }
    default:
      return cuda::for_each(EachResult{p, p.rows * tokens}, stream);
  }
}

}  // namespace bitlab::kernels
