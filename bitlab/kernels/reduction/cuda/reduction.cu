#include "bitlab/kernels/reduction/cuda/reduction.h"

#include "bitlab/kernels/internal/cuda_integers.h"
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

// A thread takes a row.
template <class T, class Wide>
struct EachRow : CudaRows {
  int64_t count;
  explicit EachRow(const CudaRows& args) : CudaRows(args), count(args.rows) {}

  // value = f(value, x_i) for each i, which follow(i, value) is told.
  template <class Function, class Follow>
  BITLAB_HOST_DEVICE Wide fold(const T* from, Wide value, const Function& f, const Follow& follow) const {
    for (int64_t i = 0; i < columns; ++i) follow(i, value = f(value, static_cast<Wide>(from[i])));
    return value;
  }
  BITLAB_HOST_DEVICE void maxima(const T* from, int64_t row) const {
    int64_t most = 0;
    for (int64_t i = 0; i < columns; ++i) {
      if (from[i] >= from[most] || from[i] != from[i]) most = i;
      static_cast<T*>(y)[row * columns + i] = from[most];
      places[row * columns + i] = most;
    }
  }
  BITLAB_HOST_DEVICE void operator()(int64_t row) const {
    const T* from = static_cast<const T*>(x) + row * columns;
    T* to = static_cast<T*>(y);
    const auto nobody = [](int64_t, Wide) {};
    const auto keep = [to, first = row * columns](int64_t i, Wide value) { to[first + i] = static_cast<T>(value); };
    const auto sum = [](Wide a, Wide b) { return wrapped_sum(a, b); };
    const auto product = [](Wide a, Wide b) { return wrapped_product(a, b); };
    switch (op) {
      case CudaRow::kSum:
        to[row] = static_cast<T>(fold(from, 0, sum, nobody));
        return;
      case CudaRow::kMax:
        to[row] = static_cast<T>(fold(from, static_cast<Wide>(from[0]), [](Wide a, Wide b) { return a < b ? b : a; }, nobody));
        return;
      case CudaRow::kMin:
        to[row] = static_cast<T>(fold(from, static_cast<Wide>(from[0]), [](Wide a, Wide b) { return b < a ? b : a; }, nobody));
        return;
      case CudaRow::kProduct:
        to[row] = static_cast<T>(fold(from, 1, product, nobody));
        return;
      case CudaRow::kSums:
        fold(from, 0, sum, keep);
        return;
      case CudaRow::kProducts:
        fold(from, 1, product, keep);
        return;
      case CudaRow::kMaxima:
        maxima(from, row);
    }
  }
};

// Whether place i of a row comes in front of place j: an order without equals.
template <class T>
BITLAB_HOST_DEVICE bool is_before(const T* x, bool descending, int64_t i, int64_t j) {
  const T a = descending ? x[j] : x[i], b = descending ? x[i] : x[j];
  if (a < b || (a == a && b != b)) return true;
  return !(b < a || (b == b && a != a)) && i < j;
}

// A thread counts how many elements are in front of one.
template <class T>
struct EachRank : CudaSort {
  int64_t count;
  explicit EachRank(const CudaSort& sort) : CudaSort(sort), count(sort.rows * sort.columns) {}
  BITLAB_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t row = cuda::divided(at, columns), i = at - row * columns;
    const T* from = static_cast<const T*>(x) + row * columns;
    int64_t rank = 0;
    for (int64_t j = 0; j < columns; ++j) rank += is_before(from, descending, j, i) ? 1 : 0;
    if (rank >= length) return;
    static_cast<T*>(y)[row * length + rank] = from[i];
    places[row * length + rank] = i;
  }
};

struct EachBegun {
  int64_t* scratch;
  int64_t stride, count;
  BITLAB_HOST_DEVICE void operator()(int64_t at) const { scratch[at] = at - cuda::divided(at, stride) * stride; }
};

// A comparison of a bitonic network (Batcher 1968) over the places of each row; those behind its columns come last.
template <class T>
struct EachComparison : CudaSort {
  int64_t stride, run, step;  // runs of 2 run become sorted; elements `step` apart are compared
  int64_t count;
  EachComparison(const CudaSort& sort, int64_t stride_, int64_t run_, int64_t step_)
      : CudaSort(sort), stride(stride_), run(run_), step(step_), count(sort.rows * stride_ / 2) {}
  BITLAB_HOST_DEVICE bool in_order(const T* from, int64_t i, int64_t j) const {
    if (i >= columns || j >= columns) return i < j;
    return is_before(from, descending, i, j);
  }
  BITLAB_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t half = stride / 2, row = cuda::divided(at, half), pair = at - row * half;
    const int64_t first = pair / step * step * 2 + pair % step;
    int64_t &low = scratch[row * stride + first], &high = scratch[row * stride + first + step];
    const bool rises = first / (2 * run) % 2 == 0;
    if (in_order(static_cast<const T*>(x) + row * columns, low, high) == rises) return;
    const int64_t other = low;
    low = high, high = other;
  }
};

template <class T>
struct EachSorted : CudaSort {
  int64_t stride, count;
  EachSorted(const CudaSort& sort, int64_t stride_) : CudaSort(sort), stride(stride_), count(sort.rows * sort.length) {}
  BITLAB_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t row = cuda::divided(at, length), place = scratch[row * stride + at - row * length];
    static_cast<T*>(y)[at] = static_cast<const T*>(x)[row * columns + place];
    places[at] = place;
  }
};

template <class T>
const char* sort_rows(const CudaSort& sort, void* stream) {
  const int64_t stride = cuda_sort_stride(sort.columns);
  if (stride == 0) return cuda::for_each(EachRank<T>(sort), stream);
  const char* wrong = cuda::for_each(EachBegun{sort.scratch, stride, sort.rows * stride}, stream);
  for (int64_t run = 1; run < stride; run *= 2)
    for (int64_t step = run; step > 0 && wrong == nullptr; step /= 2)
      wrong = cuda::for_each(EachComparison<T>(sort, stride, run, step), stream);
  return wrong != nullptr ? wrong : cuda::for_each(EachSorted<T>(sort, stride), stream);
}

}  // namespace

const char* cuda_rows(const CudaRows& rows, void* stream) {
  if (rows.is_float) return cuda::for_each(EachRow<float, double>(rows), stream);
  return cuda::for_each(EachRow<int64_t, int64_t>(rows), stream);
}

const char* cuda_sort(const CudaSort& sort, void* stream) {
  return sort.is_float ? sort_rows<float>(sort, stream) : sort_rows<int64_t>(sort, stream);
}

const char* cuda_reduction(const ReductionArgs& args, int64_t rows, void* stream) {
  return cuda::launch<Reduce>({cuda::blocks_for(rows, Reduce::kRows)}, {args, rows}, stream);
}

const char* cuda_argmax(const void* x, bool is_float, int64_t rows, int64_t columns, int64_t* y, void* stream) {
  if (is_float) return cuda::for_each(EachArgmax<float>{static_cast<const float*>(x), columns, y, rows}, stream);
  return cuda::for_each(EachArgmax<int64_t>{static_cast<const int64_t*>(x), columns, y, rows}, stream);
}

}  // namespace bitlab::kernels
