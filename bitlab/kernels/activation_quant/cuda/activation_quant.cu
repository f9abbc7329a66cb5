#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"

#include <cmath>

#include "bitlab/kernels/internal/cuda_half.h"
#include "bitlab/kernels/internal/cuda_launch.h"

namespace bitlab::kernels {
namespace {

using cuda::Block;
using cuda::PerThread;

constexpr float kEpsilon = 1e-5F;
constexpr uint32_t kInfinity = 0x7F800000U;

BITLAB_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
BITLAB_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Rows : CudaActivationQuant {
  int64_t parts;  // blocks a row
  template <class X>
  BITLAB_HOST_DEVICE const X* row(int64_t i) const {
    return static_cast<const X*>(x) + i * columns;
  }
};

// The part of a row that a block takes.
struct Part {
  int64_t begin, end;
  BITLAB_HOST_DEVICE Part(const Rows& r, int64_t part) {
    const int64_t each = (r.columns + r.parts - 1) / r.parts;
    begin = part * each < r.columns ? part * each : r.columns;
    end = begin + each < r.columns ? begin + each : r.columns;
  }
};

template <int kThreads>
struct Shared {
  uint32_t of_warp[kThreads / cuda::kWarp];
};

// The greatest of |x| as its bits, which are in the order of the magnitudes; those of infinity and NaN are above all others.
template <class X, int kThreads>
BITLAB_HOST_DEVICE uint32_t greatest(const Block<kThreads>& block, const X* x, const Part& part, Shared<kThreads>& shared) {
  PerThread<uint32_t, kThreads> most;
  block.each([&](int thread) {
    uint32_t own = 0;
    BITLAB_UNROLL_BY(4) for (int64_t k = part.begin + thread; k < part.end; k += kThreads) {
      const uint32_t bits = bits_of(value_of(x[k])) & 0x7FFFFFFFU;
      own = own < bits ? bits : own;
    }
    most[thread] = own;
  });
  return cuda::greatest(block, most, shared.of_warp);
}

template <class X, int kThreads>
BITLAB_HOST_DEVICE void write(const Block<kThreads>& block, const Rows& r, uint32_t most, const Part& part) {
  const X* from = r.row<X>(block.x);
  int8_t* to = r.q + block.x * r.q_stride;
  const float size = float_of(most), inv = r.inv > 0 ? r.inv : r.limit / (size < kEpsilon ? kEpsilon : size);
  block.each([&](int thread) {
    BITLAB_UNROLL_BY(4) for (int64_t k = part.begin + thread; k < part.end; k += kThreads) {
      float value = rintf(value_of(from[k]) * inv);
      value = value < r.limit ? value : r.limit;
      value = value > -r.limit ? value : -r.limit;
      to[k] = static_cast<int8_t>(value);
    }
    if (block.y != 0) return;
    for (int64_t k = r.columns + thread; k < r.q_stride; k += kThreads) to[k] = 0;
    if (thread != 0) return;
    r.a[block.x] = most >= kInfinity ? float_of(0x7FC00000U) : 1.0F / inv;
    if (most >= kInfinity && r.failed != nullptr) *r.failed = 1;
  });
}

// A block takes a row.
template <class X, int kBlock>
struct Quantize {
  static constexpr int kThreads = kBlock;
  using Args = Rows;
  using Shared = kernels::Shared<kThreads>;
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared& shared) {
    const Part all(r, 0);
    write<X>(block, r, greatest(block, r.row<X>(block.x), all, shared), all);
  }
};

// Several blocks take a row: first its greatest value, then its integers.
template <class X>
struct FindGreatest {
  static constexpr int kThreads = 512;
  using Args = Rows;
  using Shared = kernels::Shared<kThreads>;
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared& shared) {
    const uint32_t own = greatest(block, r.row<X>(block.x), Part(r, block.y), shared);
    block.each([&](int thread) {
      if (thread == 0) cuda::raise(r.scratch + block.x, own);
    });
  }
};
template <class X>
struct QuantizeBy {
  static constexpr int kThreads = 512;
  using Args = Rows;
  struct Shared {};
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared&) {
    write<X>(block, r, r.scratch[block.x], Part(r, block.y));
  }
};

struct EachZero {
  uint32_t* to;
  int64_t count;
  BITLAB_HOST_DEVICE void operator()(int64_t i) const { to[i] = 0; }
};

template <class X>
const char* start(Rows r, void* stream) {
  constexpr int64_t kWide = 32768, kColumns = 8192;  // from where on a row is cut, and how long a part is
  if (r.columns < 1024) return cuda::launch<Quantize<X, 64>>({r.rows}, r, stream);
  if (r.columns < 8192) return cuda::launch<Quantize<X, 256>>({r.rows}, r, stream);
  if (r.columns < kWide) return cuda::launch<Quantize<X, 1024>>({r.rows}, r, stream);
  r.parts = r.columns / kColumns < cuda::kMostBlocksY ? r.columns / kColumns : cuda::kMostBlocksY;
  if (const char* wrong = cuda::for_each(EachZero{r.scratch, r.rows}, stream)) return wrong;
  if (const char* wrong = cuda::launch<FindGreatest<X>>({r.rows, r.parts}, r, stream)) return wrong;
  return cuda::launch<QuantizeBy<X>>({r.rows, r.parts}, r, stream);
}

}  // namespace

const char* cuda_activation_quant(const CudaActivationQuant& work, void* stream) {
  if (work.rows > INT32_MAX) return "fewer than 2^31 rows";
  const Rows rows{work, 1};
  switch (work.type) {
    case CudaType::kFloat32:
      return start<float>(rows, stream);
    case CudaType::kFloat16:
      return start<Float16>(rows, stream);
    case CudaType::kBFloat16:
      return start<BFloat16>(rows, stream);
    default:
      return "floats to quantize";
  }
}

}  // namespace bitlab::kernels
