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
    const int64_t each = ((r.columns + r.parts - 1) / r.parts + 3) & ~int64_t{3};  // whole fours
    begin = part * each < r.columns ? part * each : r.columns;
    end = begin + each < r.columns ? begin + each : r.columns;
  }
};

template <int kThreads>
struct Shared {
  uint32_t of_warp[kThreads / cuda::kWarp];
};

// f(k, values) for the thread's part of a part: kEach of them side by side, from k on.
template <int kEach, int kThreads, class X, class F>
BITLAB_HOST_DEVICE void each_values(const X* row, const Part& part, int thread, const F& f) {
  BITLAB_UNROLL_BY(4) for (int64_t k = part.begin + thread * kEach; k < part.end; k += kThreads * kEach) {
    if constexpr (kEach == 4) {
      f(k, cuda::read_four(row + k).at);
    } else {
      f(k, row + k);
    }
  }
}

// The greatest of |x| as its bits, which are in the order of the magnitudes; those of infinity and NaN are above all others.
template <int kEach, class X, int kThreads>
BITLAB_HOST_DEVICE uint32_t greatest(const Block<kThreads>& block, const X* x, const Part& part, Shared<kThreads>& shared) {
  PerThread<uint32_t, kThreads> most;
  block.each([&](int thread) {
    uint32_t own = 0;
    each_values<kEach, kThreads>(x, part, thread, [&](int64_t, const X* values) {
      BITLAB_UNROLL for (int i = 0; i < kEach; ++i) {
        const uint32_t bits = bits_of(value_of(values[i])) & 0x7FFFFFFFU;
        own = own < bits ? bits : own;
      }
    });
    most[thread] = own;
  });
  return cuda::greatest(block, most, shared.of_warp);
}

template <int kEach, class X, int kThreads>
BITLAB_HOST_DEVICE void write(const Block<kThreads>& block, const Rows& r, uint32_t most, const Part& part) {
  const X* from = r.row<X>(block.x);
  int8_t* to = r.q + block.x * r.q_stride;
  const float size = float_of(most), inv = r.inv > 0 ? r.inv : r.limit / (size < kEpsilon ? kEpsilon : size);
  block.each([&](int thread) {
    each_values<kEach, kThreads>(from, part, thread, [&](int64_t k, const X* values) {
      cuda::Four<int8_t> q;
      BITLAB_UNROLL for (int i = 0; i < kEach; ++i)
          q.at[i] = cuda::rounded_within(value_of(values[i]) * inv, r.limit);
      if constexpr (kEach == 4) {
        cuda::write_four(to + k, q);
      } else {
        to[k] = q.at[0];
      }
    });
    if (block.y != 0) return;
    for (int64_t k = r.columns + thread; k < r.q_stride; k += kThreads) to[k] = 0;
    if (thread != 0) return;
    r.a[block.x] = most >= kInfinity ? float_of(0x7FC00000U) : 1.0F / inv;
    if (most >= kInfinity && r.failed != nullptr) *r.failed = 1;
  });
}

// A block takes a row.
template <class X, int kEach, int kBlock>
struct Quantize {
  static constexpr int kThreads = kBlock;
  using Args = Rows;
  using Shared = kernels::Shared<kThreads>;
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared& shared) {
    const Part all(r, 0);
    write<kEach, X>(block, r, greatest<kEach>(block, r.row<X>(block.x), all, shared), all);
  }
};

// Several blocks take a row: first its greatest value, then its integers.
template <class X, int kEach>
struct FindGreatest {
  static constexpr int kThreads = 512;
  using Args = Rows;
  using Shared = kernels::Shared<kThreads>;
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared& shared) {
    const uint32_t own = greatest<kEach>(block, r.row<X>(block.x), Part(r, block.y), shared);
    block.each([&](int thread) {
      if (thread == 0) cuda::raise(r.scratch + block.x, own);
    });
  }
};
template <class X, int kEach>
struct QuantizeBy {
  static constexpr int kThreads = 512;
  using Args = Rows;
  struct Shared {};
  static BITLAB_HOST_DEVICE void run(const Block<kThreads>& block, const Rows& r, Shared&) {
    write<kEach, X>(block, r, r.scratch[block.x], Part(r, block.y));
  }
};

struct EachZero {
  uint32_t* to;
  int64_t count;
  BITLAB_HOST_DEVICE void operator()(int64_t i) const { to[i] = 0; }
};

template <class X, int kEach>
const char* start_by(Rows r, void* stream) {
  constexpr int64_t kWide = 32768, kColumns = 8192;  // from where on a row is cut, and how long a part is
  if (r.columns < 1024) return cuda::launch<Quantize<X, kEach, 64>>({r.rows}, r, stream);
  if (r.columns < 8192) return cuda::launch<Quantize<X, kEach, 256>>({r.rows}, r, stream);
  if (r.columns < kWide) return cuda::launch<Quantize<X, kEach, 1024>>({r.rows}, r, stream);
  r.parts = r.columns / kColumns < cuda::kMostBlocksY ? r.columns / kColumns : cuda::kMostBlocksY;
  if (const char* wrong = cuda::for_each(EachZero{r.scratch, r.rows}, stream)) return wrong;
  if (const char* wrong = cuda::launch<FindGreatest<X, kEach>>({r.rows, r.parts}, r, stream)) return wrong;
  return cuda::launch<QuantizeBy<X, kEach>>({r.rows, r.parts}, r, stream);
}
template <class X>
const char* start(const Rows& r, void* stream) {
  const bool fours = cuda::are_fours(static_cast<const X*>(r.x), r.columns) && cuda::are_fours(r.q, r.q_stride);
  return fours ? start_by<X, 4>(r, stream) : start_by<X, 1>(r, stream);
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
