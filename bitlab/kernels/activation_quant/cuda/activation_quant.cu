#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"

#include "bitlab/base/internal/cuda_error.h"
#include "bitlab/kernels/internal/cuda_block.h"

namespace bitlab::kernels {
namespace {

using cuda::kWarp;

constexpr int kMostThreads = 1024;
constexpr float kEpsilon = 1e-5F;
constexpr uint32_t kInfinity = 0x7F800000U;

// The greatest of |x| as its bits, which are in the order of the magnitudes; those of infinity and NaN are above all others.
__device__ uint32_t greatest(const float* x, int64_t columns) {
  __shared__ uint32_t of_warp[kMostThreads / kWarp];
  uint32_t most = 0;
#pragma unroll 4
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) most = max(most, __float_as_uint(x[k]) & 0x7FFFFFFFU);
  most = __reduce_max_sync(0xFFFFFFFFU, most);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = most;
  __syncthreads();
  const uint32_t own = threadIdx.x % kWarp < blockDim.x / kWarp ? of_warp[threadIdx.x % kWarp] : 0;
  return __reduce_max_sync(0xFFFFFFFFU, own);
}

struct Rows {
  const float* x;
  int64_t columns;
  float limit, inv;  // inv: 0, or that of a static step
  int8_t* q;
  int64_t q_stride;
  float* a;
};

// The part of a row that one of gridDim.y blocks takes.
struct Part {
  int64_t begin, end;
  __device__ explicit Part(int64_t columns) {
    const int64_t each = (columns + gridDim.y - 1) / gridDim.y;
    begin = min(blockIdx.y * each, columns);
    end = min(begin + each, columns);
  }
};

__device__ void write(const Rows& r, uint32_t most, Part part) {
  const float* from = r.x + blockIdx.x * r.columns;
  int8_t* to = r.q + blockIdx.x * r.q_stride;
  const float size = __uint_as_float(most), inv = r.inv > 0 ? r.inv : r.limit / (size < kEpsilon ? kEpsilon : size);
#pragma unroll 4
  for (int64_t k = part.begin + threadIdx.x; k < part.end; k += blockDim.x) {
    float value = rintf(from[k] * inv);
    value = value < r.limit ? value : r.limit;
    value = value > -r.limit ? value : -r.limit;
    to[k] = static_cast<int8_t>(value);
  }
  if (blockIdx.y != 0) return;
  for (int64_t k = r.columns + threadIdx.x; k < r.q_stride; k += blockDim.x) to[k] = 0;
  if (threadIdx.x == 0) r.a[blockIdx.x] = most >= kInfinity ? __uint_as_float(0x7FC00000U) : 1.0F / inv;
}

// A block takes a row.
__global__ void quantize(Rows r) {
  write(r, greatest(r.x + blockIdx.x * r.columns, r.columns), Part(r.columns));
}

// Several blocks take a row: first its greatest value, then its integers.
__global__ void find_greatest(Rows r, uint32_t* most) {
  const Part part(r.columns);
  const uint32_t own = greatest(r.x + blockIdx.x * r.columns + part.begin, part.end - part.begin);
  if (threadIdx.x == 0) atomicMax(most + blockIdx.x, own);
}
__global__ void quantize_by(Rows r, const uint32_t* most) { write(r, most[blockIdx.x], Part(r.columns)); }

}  // namespace

const char* cuda_activation_quant(const float* x, int64_t rows, int64_t columns, float limit, float inv, int8_t* q, int64_t q_stride, float* a,
                                  uint32_t* scratch, void* stream_) {
  if (rows == 0) return nullptr;
  if (rows > INT32_MAX) return "fewer than 2^31 rows";
  const auto stream = static_cast<cudaStream_t>(stream_);
  const Rows r{x, columns, limit, inv, q, q_stride, a};
  constexpr int64_t kWide = 32768, kColumns = 8192;  // from where on a row is cut, and how long a part is
  if (columns < kWide) {
    const int threads = columns >= 8192 ? kMostThreads : columns >= 1024 ? 256 : 64;
    quantize<<<static_cast<unsigned>(rows), threads, 0, stream>>>(r);
  } else {
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(columns / kColumns < 65535 ? columns / kColumns : 65535));
    cudaMemsetAsync(scratch, 0, static_cast<size_t>(rows) * sizeof(uint32_t), stream);
    find_greatest<<<grid, 512, 0, stream>>>(r, scratch);
    quantize_by<<<grid, 512, 0, stream>>>(r, scratch);
  }
  return cuda::launch_problem();
}

}  // namespace bitlab::kernels
