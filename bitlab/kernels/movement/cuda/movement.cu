#include "bitlab/kernels/movement/cuda/movement.h"

#include "bitlab/kernels/internal/cuda_integers.h"
#include "bitlab/kernels/internal/cuda_launch.h"

namespace bitlab::kernels {
namespace {

template <class T>
struct EachOfCopy : CudaCopy {
  explicit EachOfCopy(const CudaCopy& copy) : CudaCopy(copy) {}
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    int64_t in = from_offset, out = to_offset;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t rest = cuda::divided(i, sizes[d]), at = i - rest * sizes[d];
      in += at * from[d];
      out += at * to[d];
      i = rest;
    }
    static_cast<T*>(target)[out] = static_cast<const T*>(source)[in];
  }
};

template <class T>
struct EachOfTake : CudaTake {
  explicit EachOfTake(const CudaTake& take) : CudaTake(take) {}
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t o = cuda::divided(i, indexed), within = i - o * indexed, row = cuda::divided(within, inner);
    const int64_t column = within - row * inner, index = indices[by_outer ? i : row],
                  there = index < 0 && from_end ? index + size : index;
    if (there < 0 || there >= size) {
      *failed = 1;
      return;
    }
    static_cast<T*>(y)[i] = static_cast<const T*>(x)[(o * size + there) * inner + column];
  }
};

template <class T>
BITLAB_HOST_DEVICE T scattered(CudaScatterMode mode, T there, T value) {
  switch (mode) {
    case CudaScatterMode::kAdd:
      return wrapped_sum(there, value);
    case CudaScatterMode::kMultiply:
      return wrapped_product(there, value);
    case CudaScatterMode::kMinimum:
      return there < value || there != there ? there : value;
    case CudaScatterMode::kMaximum:
      return there > value || there != there ? there : value;
    default:
      return value;
  }
}

// A thread takes a column of one of `outer`, since its places may repeat.
template <class T>
struct EachScattered : CudaScatter {
  explicit EachScattered(const CudaScatter& scatter) : CudaScatter(scatter) {}
  BITLAB_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t o = cuda::divided(at, inner), column = at - o * inner;
    for (int64_t i = o * indexed + column; i < (o + 1) * indexed; i += inner) {
      const int64_t index = indices[i], place = index < 0 ? index + size : index;
      if (place < 0 || place >= size) {
        *failed = 1;
        return;
      }
      T& there = static_cast<T*>(y)[(o * size + place) * inner + column];
      there = scattered(mode, there, static_cast<const T*>(values)[i]);
    }
  }
};

struct EachPosition : CudaCount {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const { y[i] = (first == nullptr ? 0 : *first) + i; }
};

struct EachAppended : CudaAppend {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t own = rows * depth, outer = cuda::divided(i, own);
    state[(outer * capacity + *position) * depth + i - outer * own] = tokens[i];
  }
};

}  // namespace

const char* cuda_copy(const CudaCopy& copy, void* stream) {
  return with_bytes(copy.element_bytes, [&](auto zero) { return cuda::for_each(EachOfCopy<decltype(zero)>(copy), stream); });
}

const char* cuda_take(const CudaTake& take, void* stream) {
  return with_bytes(take.element_bytes, [&](auto zero) { return cuda::for_each(EachOfTake<decltype(zero)>(take), stream); });
}

const char* cuda_scatter(const CudaScatter& scatter, void* stream) {
  if (scatter.is_float) return cuda::for_each(EachScattered<float>(scatter), stream);
  switch (scatter.element_bytes) {
    case 1:
      return cuda::for_each(EachScattered<uint8_t>(scatter), stream);
    case 2:
      return cuda::for_each(EachScattered<uint16_t>(scatter), stream);
    case 4:
      return cuda::for_each(EachScattered<int32_t>(scatter), stream);
    default:
      return cuda::for_each(EachScattered<int64_t>(scatter), stream);
  }
}

const char* cuda_count(const CudaCount& positions, void* stream) { return cuda::for_each(EachPosition{positions}, stream); }

const char* cuda_append(const CudaAppend& append, void* stream) { return cuda::for_each(EachAppended{append}, stream); }

}  // namespace bitlab::kernels
