#include "bitlab/kernels/reduction/cuda/reduction.h"

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/internal/float_math.h"
#include "bitlab/kernels/reduction/cuda/lanes.h"

namespace bitlab::kernels {
namespace {

// Sixteen threads take a row.
struct Reduce {
  static constexpr int kThreads = 128, kRows = kThreads / cuda::kSumLanes;
  struct Args {
    ReductionArgs p;
    int64_t rows;
  };
  struct Shared {
    float lanes[kThreads];
  };
  using Block = cuda::Block<kThreads>;

  // The row of a thread, and its lane.
  struct Place {
    int64_t row;
    int lane;
    BITLAB_HOST_DEVICE Place(const Block& block, int thread)
        : row(block.x * kRows + thread / cuda::kSumLanes), lane(thread % cuda::kSumLanes) {}
  };

  // lanes[thread] = f(first, the thread's elements of its row in their order); `padding` stands behind the row.
  template <class Map>
  static BITLAB_HOST_DEVICE void fold(const Block& block, const Args& args, const float* x, float first, float padding,
                                      Shared& shared, const Map& f) {
    block.each([&](int thread) {
      const Place at(block, thread);
      float value = first;
      if (at.row < args.rows) {
        const float* from = x + at.row * args.p.columns;
        const int64_t padded = (args.p.columns + cuda::kSumLanes - 1) / cuda::kSumLanes * cuda::kSumLanes;
        BITLAB_UNROLL_BY(8) for (int64_t i = at.lane; i < padded; i += cuda::kSumLanes)
          value = f(thread, value, i < args.p.columns ? from[i] : padding, i);
      }
      shared.lanes[thread] = value;
    });
  }
  // f(element, i) for all of the block's elements.
  template <class Map>
  static BITLAB_HOST_DEVICE void map(const Block& block, const Args& args, const Map& f) {
    block.each([&](int thread) {
      const Place at(block, thread);
      if (at.row >= args.rows) return;
      BITLAB_UNROLL_BY(4) for (int64_t i = at.lane; i < args.p.columns; i += cuda::kSumLanes) f(thread, at.row * args.p.columns + i, i);
    });
  }
  static BITLAB_HOST_DEVICE float first_lane(const Shared& shared, int thread) {
    return shared.lanes[thread / cuda::kSumLanes * cuda::kSumLanes];
  }
  // What lane 0 has behind a tree, for each thread; the lanes are free then.
  static BITLAB_HOST_DEVICE void take(const Block& block, const Shared& shared, cuda::PerThread<float, kThreads>& to) {
    block.each([&](int thread) { to[thread] = first_lane(shared, thread); });
    block.sync();
  }

  static BITLAB_HOST_DEVICE void softmax(const Block& block, const Args& args, Shared& shared) {
    const ReductionArgs& p = args.p;
    constexpr float kLeast = -__builtin_inff();
    fold(block, args, p.x, kLeast, kLeast, shared, [&](int, float most, float x, int64_t i) {
      if (i >= p.columns) return most;
      float z = x * p.scale;
      if (p.mask != nullptr) z = z + p.mask[i * p.mask_step];
      return z > most ? z : most;
    });
    cuda::tree_largest(block, shared.lanes);
    cuda::PerThread<float, kThreads> most, total;
    take(block, shared, most);
    const auto weight = [&](int thread, float x, int64_t i) {
      float z = x * p.scale;
      if (p.mask != nullptr) z = z + p.mask[i * p.mask_step];
      return lane(exp<true>(F32x16(z) - most[thread]));
    };
    fold(block, args, p.x, 0.0F, 0.0F, shared,
         [&](int thread, float sum, float x, int64_t i) { return i < p.columns ? sum + weight(thread, x, i) : sum; });
    cuda::tree_sum(block, shared.lanes);
    take(block, shared, total);
    map(block, args, [&](int thread, int64_t at, int64_t i) { p.y[at] = weight(thread, p.x[at], i) / total[thread]; });
  }

  static BITLAB_HOST_DEVICE void norm(const Block& block, const Args& args, Shared& shared) {
    const ReductionArgs& p = args.p;
    const auto n = static_cast<float>(p.columns);
    cuda::PerThread<float, kThreads> mean, factor;
    block.each([&](int thread) { mean[thread] = 0; });
    if (p.op == Reduction::kLayerNorm) {
      fold(block, args, p.x, 0.0F, 0.0F, shared, [](int, float sum, float x, int64_t) { return sum + x; });
      cuda::tree_sum(block, shared.lanes);
      block.each([&](int thread) { mean[thread] = first_lane(shared, thread) / n; });
      block.sync();
    }
    fold(block, args, p.x, 0.0F, 0.0F, shared, [&](int thread, float sum, float x, int64_t i) {
      const float from_mean = (i < p.columns ? x : mean[thread]) - mean[thread];
      return sum + from_mean * from_mean;
    });
    cuda::tree_sum(block, shared.lanes);
    block.each([&](int thread) { factor[thread] = 1.0F / ::sqrtf(first_lane(shared, thread) / n + p.eps); });
    map(block, args, [&](int thread, int64_t at, int64_t i) {
      float value = (p.x[at] - mean[thread]) * factor[thread];
      if (p.weight != nullptr) value = value * p.weight[i];
      if (p.bias != nullptr) value = value + p.bias[i];
      p.y[at] = value;
    });
  }

  static BITLAB_HOST_DEVICE void sum(const Block& block, const Args& args, Shared& shared) {
    fold(block, args, args.p.x, 0.0F, 0.0F, shared, [](int, float sum, float x, int64_t) { return sum + x; });
    cuda::tree_sum(block, shared.lanes);
    block.each([&](int thread) {
      const Place at(block, thread);
      if (at.row >= args.rows || at.lane != 0) return;
      const float total = shared.lanes[thread];
      args.p.y[at.row] = args.p.op == Reduction::kMean ? total / static_cast<float>(args.p.columns) : total;
    });
  }

  // The largest or least; NaN where there is one.
  static BITLAB_HOST_DEVICE void extreme(const Block& block, const Args& args, Shared& shared) {
    const bool most = args.p.op == Reduction::kMax;
    const float least = most ? -__builtin_inff() : __builtin_inff();
    const auto is_beyond = [=](float a, float b) { return most ? a > b : a < b; };
    fold(block, args, args.p.x, least, least, shared, [&](int, float value, float x, int64_t) {
      return is_beyond(x, value) || x != x ? x : value;
    });
    block.sync();
    block.each([&](int thread) {
      const Place at(block, thread);
      if (at.row >= args.rows || at.lane != 0) return;
      float value = shared.lanes[thread];
      for (int i = 0; i < cuda::kSumLanes; ++i) {
        const float other = shared.lanes[thread + i];
        value = is_beyond(other, value) || other != other ? other : value;
      }
      args.p.y[at.row] = value;
    });
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const Args& args, Shared& shared) {
    switch (args.p.op) {
      case Reduction::kSoftmax:
        return softmax(block, args, shared);
      case Reduction::kLayerNorm:
      case Reduction::kRmsNorm:
        return norm(block, args, shared);
      case Reduction::kSum:
      case Reduction::kMean:
        return sum(block, args, shared);
      default:
        return extreme(block, args, shared);
    }
  }
};

// A thread takes a row.
template <class T>
struct EachArgmax {
  const T* x;
  int64_t columns;
  int64_t* y;
  int64_t count;
  BITLAB_HOST_DEVICE void operator()(int64_t row) const {
    const T* from = x + row * columns;
    int64_t most = 0;
    for (int64_t i = 1; i < columns && from[most] == from[most]; ++i)
      if (from[i] > from[most] || from[i] != from[i]) most = i;
    y[row] = most;
  }
};

}  // namespace

const char* cuda_reduction(const ReductionArgs& args, int64_t rows, void* stream) {
  return cuda::launch<Reduce>({cuda::blocks_for(rows, Reduce::kRows)}, {args, rows}, stream);
}

const char* cuda_argmax(const void* x, bool is_float, int64_t rows, int64_t columns, int64_t* y, void* stream) {
  if (is_float) return cuda::for_each(EachArgmax<float>{static_cast<const float*>(x), columns, y, rows}, stream);
  return cuda::for_each(EachArgmax<int64_t>{static_cast<const int64_t*>(x), columns, y, rows}, stream);
}

}  // namespace bitlab::kernels
