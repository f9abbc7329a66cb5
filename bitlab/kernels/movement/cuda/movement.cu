#include "bitlab/kernels/movement/cuda/movement.h"

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

struct EachPosition : CudaCount {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const { y[i] = (first == nullptr ? 0 : *first) + i; }
};

struct EachAppended : CudaAppend {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t own = rows * depth, outer = cuda::divided(i, own);
    state[(outer * capacity + *position) * depth + i - outer * own] = tokens[i];
  }
};

// Calls with an unsigned integer of so many bytes.
template <class F>
const char* with_bytes(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

}  // namespace

const char* cuda_copy(const CudaCopy& copy, void* stream) {
  return with_bytes(copy.element_bytes, [&](auto zero) { return cuda::for_each(EachOfCopy<decltype(zero)>(copy), stream); });
}

const char* cuda_take(const CudaTake& take, void* stream) {
  return with_bytes(take.element_bytes, [&](auto zero) { return cuda::for_each(EachOfTake<decltype(zero)>(take), stream); });
}

const char* cuda_count(const CudaCount& positions, void* stream) { return cuda::for_each(EachPosition{positions}, stream); }

const char* cuda_append(const CudaAppend& append, void* stream) { return cuda::for_each(EachAppended{append}, stream); }

}  // namespace bitlab::kernels
